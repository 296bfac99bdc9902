"""The lossy autoencoder, whole: trained on digits, published, served by a process."""

import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from service.contract import noise
from service.contract.manifest import ImageSpec
from tests.fixtures.consistency import assert_consistent
from tests.fixtures.processes import ROOT, asking
from tests.fixtures.trained_models import digits
from tests.fixtures.trainer_command import finished
from trainer.models.base import build
from trainer.models.vlae import VLAE
from trainer.training import checkpoint
from trainer.training.run_folder import RunFolder

SEVEN = ROOT / "tests" / "fixtures" / "seven.png"
DIM = 4
SMALL = [
    "--publish-anyway",
    *("--batch-size=32", "--device=cpu", "--precision=32", "--epochs=1", f"--latent-dim={DIM}"),
    *("--neck-width=2", "--width=16", "--stem-width=8", "--hidden-width=8", "--blocks=1"),
    *("--window=2", "--filters=4", "--flow-steps=1", "--flow-width=8"),
]
IMAGES, NPY = {"Content-Type": "image/png"}, {"Accept": "application/x-npy"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds a run and an exported model: ``digits``."""
    folder = tmp_path_factory.mktemp("e2e")
    places = f"--out={folder / 'runs'}", f"--export-to={folder / 'exported'}"
    finished("vlae", *SMALL, *places, "--name=digits", f"--data={digits()}", "--likelihood=bernoulli")
    return folder


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[httpx2.Client]:
    with asking(folder / "exported") as client:
        yield client


@pytest.fixture(scope="module")
def vlae(folder: Path) -> VLAE:
    """The digits' model in torch, from its checkpoint."""
    run = RunFolder.open(folder / "runs" / "digits")
    model = build(run.config, ImageSpec(**run.facts["image"]), 1.0, 10)
    assert isinstance(model, VLAE)
    checkpoint.load_weights(run.latest_checkpoint(), model, averaged=True)
    return model.eval()


def asked(client: httpx2.Client, path: str, **arguments: Any) -> Any:
    answer = client.post(path, **arguments)
    assert answer.status_code == 200, answer.text
    return answer.json()


def array(client: httpx2.Client, path: str, **arguments: Any) -> NDArray[Any]:
    headers = NPY | arguments.pop("headers", {})
    answer = client.post(path, headers=headers, **arguments)
    assert answer.status_code == 200, answer.text
    return np.load(io.BytesIO(answer.content))


def test_every_epoch_leaves_pictures_and_the_model(folder: Path) -> None:
    run = folder / "runs" / "digits"
    for picture in ("test_recon_epoch1.png", "sample_conditioned_epoch1.png", "plots/kl.png"):
        assert (run / picture).is_file()
    assert (run / "vlae_condprior_epoch1" / "model.safetensors").is_file()
    assert (folder / "exported" / "digits" / "samples.png").is_file()


def test_to_reconstruct_is_to_encode_and_to_decode(client: httpx2.Client) -> None:
    seven = SEVEN.read_bytes()
    codes = asked(client, "/encode?model=digits", content=seven, headers=IMAGES)
    assert np.shape(codes["codes"]) == (1, DIM)
    decoded = array(client, "/decode?model=digits", json=codes)
    assert np.array_equal(array(client, "/reconstruct?model=digits", content=seven, headers=IMAGES), decoded)
    assert len(np.unique(decoded)) > 2, "of black and white digits, means are shown"


def test_images_are_those_of_their_codes_and_seeds(client: httpx2.Client) -> None:
    assert_consistent(client, "digits")


def test_a_decoded_image_is_a_draw_or_the_likeliest_or_a_mean(client: httpx2.Client) -> None:
    codes = asked(client, "/encode?model=digits", content=SEVEN.read_bytes(), headers=IMAGES)

    def decoded(query: str) -> NDArray[Any]:
        return array(client, f"/decode?model=digits&mean=0{query}", json=codes)

    one, drawn, greedy = (decoded(query) for query in ("", "&seed=1", "&temperature=0"))
    assert np.array_equal(decoded(""), one)
    assert np.array_equal(decoded("&seed=1"), drawn)
    assert np.array_equal(decoded("&seed=1&temperature=0"), greedy)
    others = (one, drawn, greedy, decoded("&seed=2"))
    assert all(not np.array_equal(a, b) for a, b in itertools.combinations(others, 2))
    twice = {**codes, "shape": [2, DIM], "codes": codes["codes"] * 2}
    both = array(client, "/decode?model=digits&mean=0", json=twice)
    assert np.array_equal(both, np.concatenate([one, one])), "whatever the place in the batch"
    assert all(set(np.unique(each)) <= {0, 255} for each in others)
    means = array(client, "/decode?model=digits", json=codes)
    assert np.array_equal(array(client, "/decode?model=digits&mean=1", json=codes), means)
    assert len(np.unique(means)) > 2


def test_samples_by_label_are_those_that_torch_draws(client: httpx2.Client, vlae: VLAE) -> None:
    labels = [3, 1, 4, 1]
    body = {"model": "digits", "label": labels, "seed": 9, "parameters": {"mean": 0}}
    served = asked(client, "/sample", json=body, headers={"Accept": "application/json"})
    shapes = {"sample/prior": (DIM,), "decode": (784, 1)}
    draws = {"sample/prior": noise.normal, "decode": noise.uniform}
    given = {
        name: torch.from_numpy(draws[name](9, range(4), noise.stream(name, "noise"), shape))
        for name, shape in shapes.items()
    }
    graphs = {graph.operation: graph.module for graph in vlae.graphs()}
    temperature = torch.tensor(vlae.config.code_temperature)
    with torch.no_grad():
        (codes,) = graphs["sample/prior"](given["sample/prior"], temperature, torch.tensor(labels))
        decoding = (torch.tensor(served["codes"]), given["decode"], torch.tensor(1.0), torch.tensor(0))
        (images,) = graphs["decode"](*decoding)
    # float32 sums in another order.
    np.testing.assert_allclose(served["codes"], codes, atol=1e-5)
    drawn = array(client, "/sample", json=body)
    assert drawn.shape == images.shape == (4, 28, 28, 1)
    assert np.array_equal(drawn, images), "by the codes as they were served"
    again = array(
        client, "/decode?model=digits&seed=9&mean=0", json={"model": "digits", "codes": served["codes"]}
    )
    assert np.array_equal(again, drawn), "the same seed draws the same pixels"


def test_samples_have_two_temperatures_and_need_no_label(client: httpx2.Client) -> None:
    def sampled(query: str) -> NDArray[Any]:
        return array(client, f"/sample?model=digits&n=3&seed=5{query}")

    plain = sampled("")
    assert np.array_equal(sampled("&temperature=1&code_temperature=0.7"), plain), "the preset's"
    assert not np.array_equal(sampled("&code_temperature=1"), plain)
    assert not np.array_equal(sampled("&code_temperature=0"), plain)
    assert not np.array_equal(sampled("&temperature=0"), plain)
    still = sampled("&temperature=0&code_temperature=0")
    assert (still == still[:1]).all()
    codes = [
        asked(client, f"/sample?model=digits&seed=5{query}", headers={"Accept": "application/json"})["codes"]
        for query in ("", "&label=2", "&label=3")
    ]
    assert len({str(each) for each in codes}) == 3


def test_scores_may_be_given_the_class(client: httpx2.Client) -> None:
    def score(query: str) -> dict[str, list[float]]:
        path = f"/score?model=digits&samples=64&seed=1{query}"
        figures: dict[str, list[float]] = asked(client, path, content=SEVEN.read_bytes(), headers=IMAGES)[
            "figures"
        ]
        return figures

    plain, given = score(""), score("&label=7")
    assert plain["elbo"][0] == pytest.approx(plain["reconstruction"][0] - plain["kl"][0], rel=1e-5)
    assert plain["nll"][0] < -plain["elbo"][0]
    assert plain["reconstruction"] == pytest.approx(given["reconstruction"])
    assert plain["kl"] != given["kl"]


def test_the_model_is_measured_in_full(folder: Path) -> None:
    exported = folder / "exported" / "digits"
    effort = ("--samples=60", "--nll-samples=4", "--nll-images=20", f"--data={digits()}")
    rows = {row["of"]: row for row in json.loads(finished("evaluate", exported, "--json", *effort))}
    assert rows["likelihood"]["dataset"] == "mnist, dynamically binarised"
    assert rows["likelihood"]["values"]["nll"] <= -rows["likelihood"]["values"]["elbo"]
    assert 0 <= rows["sample/prior"]["values"]["accuracy"] <= 1
