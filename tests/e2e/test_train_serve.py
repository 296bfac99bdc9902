"""A trained VQ-VAE with its prior, served by a process: what callers get over HTTP, beside torch.

The commands that train, publish and serve are those of the quickstart: `tests/docs/test_console.py`.
"""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load

from service.contract import noise
from service.contract.manifest import FILE_NAME, ImageSpec, Manifest
from tests.fixtures.processes import ROOT, asking
from tests.fixtures.trained_models import WITH_PRIOR, folder_of
from trainer.config import VQVAEConfig
from trainer.data.sources.idx import bundled_mnist
from trainer.data.sources.pictures import ArrayPictures
from trainer.export.parity import DRAW_GAP, FLIP_GAP
from trainer.models.samplers.autoregressive import CodeSampler
from trainer.models.vqvae import VQVAE
from trainer.training import checkpoint
from trainer.training.run_folder import RunFolder

SEVEN = ROOT / "tests" / "fixtures" / "seven.png"
NPY = "application/x-npy"

Images = NDArray[np.uint8]


@pytest.fixture(scope="module")
def folder() -> Path:
    """Holds runs/tiny and exported/tiny: a VQ-VAE and its prior."""
    return folder_of(WITH_PRIOR)


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Manifest:
    return Manifest.model_validate_json((folder / "exported" / "tiny" / FILE_NAME).read_text())


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[httpx2.Client]:
    """Talks to a service of that model."""
    with asking(folder / "exported") as client:
        yield client


@pytest.fixture(scope="module")
def model(folder: Path) -> VQVAE:
    """The trained model in torch, from the checkpoint."""
    run = RunFolder.open(folder / "runs" / "tiny")
    assert isinstance(run.config, VQVAEConfig)
    model = VQVAE(run.config, ImageSpec(**run.facts["image"]), 1.0)
    checkpoint.load_weights(run.latest_checkpoint(), model, averaged=False)
    return model.eval()


@pytest.fixture(scope="module")
def sampler(folder: Path, model: VQVAE) -> CodeSampler:
    """The trained prior's sampler in torch, from the checkpoint."""
    stage = model.second_stage(10)
    assert stage is not None
    run = RunFolder.open(folder / "runs" / "tiny").stage(stage.name)
    checkpoint.load_weights(run.latest_checkpoint(), stage, averaged=True)
    return CodeSampler(stage.network.eval())


@pytest.fixture(scope="module")
def images() -> Images:
    """Test images of MNIST, (N, H, W, C); the first 100 are those that the model was measured on."""
    pictures = bundled_mnist().test
    assert isinstance(pictures, ArrayPictures)
    return pictures.pixels[:2000, ..., None]


def npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def png(image: Images) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image[:, :, 0]).save(buffer, "PNG")
    return buffer.getvalue()


def pixels(content: bytes) -> Images:
    with Image.open(io.BytesIO(content)) as image:
        return np.atleast_3d(np.asarray(image))


def post(client: httpx2.Client, path: str, array: NDArray[Any], accept: str = NPY) -> httpx2.Response:
    headers = {"Content-Type": NPY, "Accept": accept}
    answer = client.post(path, content=npy(array), headers=headers)
    assert answer.status_code == 200, answer.text
    return answer


def ask(client: httpx2.Client, path: str, array: NDArray[Any]) -> NDArray[Any]:
    """Send an array, get an array."""
    return np.asarray(np.load(io.BytesIO(post(client, path, array).content), allow_pickle=False))


def test_the_service_is_ready_with_the_model_that_was_trained(
    client: httpx2.Client, manifest: Manifest
) -> None:
    ready = client.get("/readyz").json()
    assert ready["status"] == "ready"
    model = {"name": "tiny", "version": manifest.version, "precision": "32", "precision_reason": None}
    assert ready["models"] == [model]
    assert ready["refused"] == []


def test_a_picture_becomes_a_grid_of_codes(client: httpx2.Client, manifest: Manifest) -> None:
    headers = {"Content-Type": "image/png"}
    answer = client.post("/encode", content=SEVEN.read_bytes(), headers=headers).json()
    assert (answer["model"], answer["version"]) == ("tiny", manifest.version)
    assert (answer["shape"], answer["dtype"]) == ([1, 7, 7], "int32")
    assert np.array(answer["codes"]).shape == (1, 7, 7)
    assert {code for row in answer["codes"][0] for code in row} <= set(range(16))


def test_codes_are_those_of_torch_but_for_ties(client: httpx2.Client, model: VQVAE, images: Images) -> None:
    encode = model.graphs()[0].module.eval()
    flips = 0
    for first in range(0, len(images), 1000):
        part = images[first : first + 1000]
        codes, batch = ask(client, "/encode", part), torch.from_numpy(part)
        with torch.no_grad():
            differ = codes != encode(batch).numpy()
        assert model.code_gap(batch, torch.from_numpy(codes)).numpy()[differ].max(initial=0) <= FLIP_GAP
        flips += int(differ.sum())
    assert flips <= len(images) * 49 / 1000


def test_decoding_what_was_encoded_is_reconstructing(client: httpx2.Client, images: Images) -> None:
    some = images[:100]
    decoded = ask(client, "/decode", ask(client, "/encode", some))
    assert (str(decoded.dtype), decoded.shape) == ("uint8", some.shape)
    assert np.array_equal(decoded, ask(client, "/reconstruct", some))


def test_the_reported_error_is_the_one_that_callers_get(
    client: httpx2.Client, manifest: Manifest, images: Images
) -> None:
    part = images[: manifest.measures[0].images]
    difference = ask(client, "/reconstruct", part).astype(float) - part
    assert len(part) == 100
    assert np.square(difference / 255).mean() == pytest.approx(manifest.measures[0].values["mse"], rel=1e-4)


def test_all_forms_of_codes_agree(client: httpx2.Client, images: Images) -> None:
    some = images[:3]
    codes = ask(client, "/encode", some)
    assert (str(codes.dtype), codes.shape) == ("int32", (3, 7, 7))
    response = post(client, "/encode", some, "application/json").json()
    assert np.array_equal(np.array(response["codes"]), codes)
    shown = post(client, "/decode", codes).content
    assert client.post("/decode", json=response, headers={"Accept": NPY}).content == shown
    for image, grid in zip(some, codes, strict=True):
        answer = client.post("/encode", content=png(image), headers={"Accept": NPY})
        assert np.array_equal(np.load(io.BytesIO(answer.content)), grid[None])


@pytest.mark.parametrize("path", ["/reconstruct", "/decode"])
def test_all_forms_of_images_agree(client: httpx2.Client, images: Images, path: str) -> None:
    sent = images[:2] if path == "/reconstruct" else ask(client, "/encode", images[:2])
    expected = ask(client, path, sent)
    response = post(client, path, sent, "application/json").json()
    assert response["shape"] == [2, 28, 28, 1]
    for text, array, image in zip(response["images"], sent, expected, strict=True):
        assert np.array_equal(pixels(base64.b64decode(text)), image)
        alone = post(client, path, array[None], "image/png").content
        assert np.array_equal(pixels(alone), image)


def test_a_picture_may_keep_a_size_of_its_own(client: httpx2.Client) -> None:
    image = np.random.default_rng(0).integers(0, 256, (28, 36, 1), dtype=np.uint8)
    answer = client.post("/encode?resize=false", content=png(image)).json()
    assert answer["shape"] == [1, 7, 9]
    assert ask(client, "/reconstruct?resize=false", image[None]).shape == (1, 28, 36, 1)


def test_the_codebook_is_the_trained_one(client: httpx2.Client, model: VQVAE) -> None:
    (vectors,) = load(client.get("/models/tiny/codebook").content).values()
    assert torch.equal(vectors, model.quantizer.codebook)


def sample(client: httpx2.Client, **wanted: Any) -> Any:
    """What ``/sample`` says in JSON."""
    answer = client.post("/sample", json=wanted, headers={"Accept": "application/json"})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_seed_gives_the_same_image_alone_and_among_many(client: httpx2.Client) -> None:
    alone, again, many = (sample(client, label="7", seed=5, n=n) for n in (1, 1, 64))
    assert again == alone
    assert many["labels"] == [7] * 64
    assert many["codes"][0] == alone["codes"][0]
    assert many["images"][0] == alone["images"][0]
    assert len({str(grid) for grid in many["codes"]}) == 64
    assert sample(client, label="7", seed=6)["codes"] != alone["codes"]
    # Beside other classes too, and with and without guidance, which computes each image twice.
    mixed = sample(client, label=[7, *range(10)], seed=5)
    assert mixed["codes"][0] == alone["codes"][0]
    for guidance in (1, 3):
        parameters = {"guidance": guidance}
        guided = [sample(client, label="7", seed=5, n=n, parameters=parameters) for n in (1, 64)]
        assert guided[0]["codes"][0] == guided[1]["codes"][0]


def test_a_sample_is_the_picture_of_its_codes(client: httpx2.Client) -> None:
    response = sample(client, seed=1, n=3)
    # Without a label it is drawn without a class.
    assert response["method"] == "autoregressive"
    assert response["parameters"].keys() == {"temperature", "top_k", "guidance"}
    codes = np.array(response["codes"], np.int32)
    shown = [pixels(base64.b64decode(text)) for text in response["images"]]
    assert np.array_equal(np.stack(shown), ask(client, "/decode", codes))
    answer = client.post("/sample?seed=1&n=3", headers={"Accept": NPY})
    assert np.array_equal(np.load(io.BytesIO(answer.content)), np.stack(shown))


@pytest.mark.parametrize("parameters", [{}, {"guidance": 2, "temperature": 0.7, "top_k": 5}], ids=str)
def test_samples_are_those_of_torch_but_for_ties(
    client: httpx2.Client, sampler: CodeSampler, images: Images, parameters: dict[str, float]
) -> None:
    kept, mask = ask(client, "/encode", images[:40]), np.random.default_rng(0).random((40, 7, 7)) < 0.6
    labels = [*range(10)] * 4
    response = sample(
        client, codes=kept.tolist(), mask=mask.tolist(), label=labels, seed=3, parameters=parameters
    )
    stream = noise.stream("sample/autoregressive", "noise")
    inputs = (
        torch.from_numpy(noise.uniform(3, range(40), stream, (49,))),
        torch.from_numpy(kept),
        torch.from_numpy(mask),
        torch.tensor(response["parameters"]["temperature"]),
        torch.tensor(response["parameters"]["top_k"]),
        torch.tensor(labels),
        torch.tensor(response["parameters"]["guidance"]),
    )
    assert response["parameters"].items() >= parameters.items()
    with torch.no_grad():
        assert sampler.gap(inputs, torch.tensor(response["codes"], dtype=torch.int32)) <= DRAW_GAP


def test_a_completion_keeps_the_codes_beside_the_mask(client: httpx2.Client, images: Images) -> None:
    (kept,) = ask(client, "/encode", images[:1])
    mask = np.zeros((7, 7), bool)
    mask[3:, 2:] = True
    response = sample(client, codes=kept.tolist(), mask=mask.tolist(), label=7, seed=2, n=8)
    grids = np.array(response["codes"])
    assert grids.shape == (8, 7, 7)
    assert np.array_equal(grids[:, ~mask], np.broadcast_to(kept[~mask], (8, 29)))
    assert len(np.unique(grids[:, mask], axis=0)) == 8
    # The same as with the picture, of which the box touches just these codes.
    picture = base64.b64encode(png(images[0])).decode()
    assert sample(client, image=picture, box=[8, 12, 28, 28], label=7, seed=2, n=8) == response
    # Each completion is the same alone.
    alone = sample(client, codes=kept.tolist(), mask=mask.tolist(), label=7, seed=2, n=1)
    assert alone["codes"][0] == response["codes"][0]


def test_the_manifest_tells_of_the_prior(manifest: Manifest) -> None:
    assert manifest.labels == tuple("0123456789")
    values = manifest.measures[0].values
    # Without a prior each code takes 4 bits; this one was trained for two epochs.
    assert 0 < values["bits"] < 0.97 * 49 * 4
    assert 0 < values["bits_given_class"] < 0.97 * 49 * 4
