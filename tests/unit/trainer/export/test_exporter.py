import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from PIL import Image
from safetensors.numpy import load_file
from torchmetrics.functional.image import structural_similarity_index_measure

from service.contract.manifest import (
    FILE_NAME,
    Agreement,
    Manifest,
    PrecisionGraphs,
    Role,
    Tiling,
    content_version,
)
from service.contract.measures import HalfPrecision
from tests.fixtures import tiny_models
from tests.fixtures.tiny_models import Trained
from trainer.config import VQVAEConfig
from trainer.data.batches import ResidentSplit
from trainer.errors import ExportError
from trainer.evaluation.exported_model import open_exported
from trainer.export import exporter as exporter
from trainer.export.exporter import export
from trainer.export.manifest import public_config
from trainer.export.model_card import SAMPLES, SHOWN_SEED
from trainer.export.parity import DRAW_GAP, FLIP_GAP
from trainer.export.precision.agreement import Halved
from trainer.image_sheets import GAP, NAME_LINE, PAPER
from trainer.models.code_prior.network import Ordered
from trainer.models.code_prior.stage import PriorStage
from trainer.models.graph import Graph
from trainer.models.layers.convolutional import Encoder
from trainer.models.quantizers import lookup
from trainer.models.vqvae import VQVAE
from trainer.training import checkpoint

GRAPHS = ("encoder.onnx", "decoder.onnx")


@pytest.fixture
def folder(trained: Trained) -> Path:
    return trained.exported.folder


@pytest.fixture
def manifest(folder: Path) -> Manifest:
    return Manifest.model_validate_json((folder / FILE_NAME).read_text())


@pytest.fixture(scope="session")
def test_images(trained: Trained) -> NDArray[np.uint8]:
    """The test split, uint8 (N, H, W, C)."""
    split = trained.dataset.test
    assert isinstance(split, ResidentSplit)
    return split.images.permute(0, 2, 3, 1).contiguous().numpy()


Run = Callable[[NDArray[np.generic]], NDArray[np.generic]]


def session(file: Path) -> Run:
    loaded = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (given,) = loaded.get_inputs()
    return lambda array: np.asarray(loaded.run(None, {given.name: array})[0])


@pytest.fixture(scope="session")
def encode(trained: Trained) -> Run:
    return session(trained.exported.folder / "encoder.onnx")


@pytest.fixture(scope="session")
def decode(trained: Trained) -> Run:
    return session(trained.exported.folder / "decoder.onnx")


def test_the_manifest_tells_every_file_as_it_is(folder: Path, manifest: Manifest) -> None:
    assert manifest.files.keys() | {FILE_NAME} == {path.name for path in folder.iterdir()}
    for name, file in manifest.files.items():
        content = (folder / name).read_bytes()
        assert (file.size, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_the_manifest_tells_what_was_trained(trained: Trained, manifest: Manifest) -> None:
    assert manifest == trained.exported.manifest
    assert (manifest.name, manifest.kind, manifest.seed) == ("tiny", "vqvae", 0)
    assert manifest.version == content_version(manifest.files)
    assert (manifest.image.height, manifest.image.width, manifest.image.channels) == (28, 28, 1)
    assert manifest.image.multiple_of == manifest.codes.stride == 4
    assert (manifest.codes.shape, manifest.codes.codebook_size) == ((7, 7), 16)
    assert manifest.config["codebook_dim"] == 4
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", manifest.created)


def test_the_manifest_has_the_name_of_a_file_and_not_its_folder() -> None:
    public = public_config(tiny_models.config(perceptual="/home/anna/vgg16.pth", data="/home/anna"))
    assert (public["perceptual"], public["data"]) == ("vgg16.pth", "anna")
    assert not {"out", "export_to"} & public.keys()


def test_the_operations_name_the_inputs_of_their_graphs_by_role(folder: Path, manifest: Manifest) -> None:
    roles = {"encode": (Role.images, Role.codes), "decode": (Role.codes, Role.images)}
    assert manifest.operations.keys() == roles.keys()
    for name, operation in manifest.operations.items():
        loaded = onnxruntime.InferenceSession(folder / operation.graph, providers=["CPUExecutionProvider"])
        assert [item.name for item in operation.inputs] == [item.name for item in loaded.get_inputs()]
        assert [item.name for item in operation.outputs] == [item.name for item in loaded.get_outputs()]
        assert (operation.inputs[0].role, operation.outputs[0].role) == roles[name]


@pytest.mark.parametrize("file", GRAPHS)
def test_images_are_uint8_and_codes_int32_at_any_size(folder: Path, file: str) -> None:
    loaded = onnxruntime.InferenceSession(folder / file, providers=["CPUExecutionProvider"])
    (given,), (made,) = loaded.get_inputs(), loaded.get_outputs()
    images, codes = (given, made) if file == "encoder.onnx" else (made, given)
    assert (images.type, images.shape[3]) == ("tensor(uint8)", 1)
    assert (codes.type, len(codes.shape)) == ("tensor(int32)", 3)
    assert all(isinstance(axis, str) for axis in [*images.shape[:3], *codes.shape])


def test_the_codebook_is_the_trained_one(trained: Trained, folder: Path) -> None:
    (stored,) = load_file(folder / "codebook.safetensors").values()
    assert np.array_equal(stored, trained.model.quantizer.codebook.numpy())


def places(proto: onnx.ModelProto) -> list[dict[str, str]]:
    """Where the external data of a graph is."""
    return [
        {entry.key: entry.value for entry in tensor.external_data}
        for tensor in proto.graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
    ]


@pytest.mark.parametrize("file", GRAPHS)
def test_both_graphs_take_the_one_codebook(trained: Trained, folder: Path, file: str) -> None:
    proto = onnx.load(folder / file, load_external_data=False)
    (where,) = (place for place in places(proto) if place["location"] == "codebook.safetensors")
    content = (folder / where["location"]).read_bytes()
    values = trained.model.quantizer.codebook.numpy()
    assert content[int(where["offset"]) :][: int(where["length"])] == values.tobytes()
    stored = (folder / file).read_bytes()
    assert values.tobytes() not in stored
    assert np.ascontiguousarray(values.T).tobytes() not in stored


@pytest.mark.parametrize("file", GRAPHS)
def test_a_graph_leaves_its_weights_to_the_file_beside_it(trained: Trained, folder: Path, file: str) -> None:
    net = trained.model.encoder if file == "encoder.onnx" else trained.model.decoder
    stored = load_file(folder / "weights.safetensors").items()
    own = [values for name, values in stored if name.startswith(file.removesuffix("onnx"))]
    large = [weight for weight in net.parameters() if weight.numel() >= 256]
    assert sorted(values.size for values in own) == sorted(weight.numel() for weight in large)
    assert (folder / file).stat().st_size < 20_000


@pytest.mark.parametrize("size", [(1, 28, 28), (3, 28, 36), (2, 4, 8), (1, 64, 40)])
def test_onnx_runtime_agrees_with_torch(
    trained: Trained, encode: Run, decode: Run, size: tuple[int, int, int]
) -> None:
    count, height, width = size
    images = tiny_models.images(count, height=height, width=width).permute(0, 2, 3, 1).contiguous()
    modules = [graph.module.eval() for graph in trained.model.graphs()]
    with torch.no_grad():
        expected = modules[0](images).numpy()
        codes = encode(images.numpy())
        again = modules[1](torch.from_numpy(codes)).numpy()
    assert codes.shape == (count, height // 4, width // 4)
    gaps = trained.model.code_gap(images, torch.from_numpy(codes)).numpy()
    assert np.all(gaps[codes != expected] <= FLIP_GAP)
    difference = np.abs(decode(codes).astype(int) - again.astype(int))
    assert np.mean(difference <= 1) >= 0.999


def test_codes_do_not_depend_on_the_batch(encode: Run, test_images: NDArray[np.uint8]) -> None:
    together = encode(test_images[:5])
    singly = np.concatenate([encode(image[None]) for image in test_images[:5]])
    assert np.mean(together == singly) > 0.99


def test_the_measures_are_those_of_the_files(
    manifest: Manifest, encode: Run, decode: Run, test_images: NDArray[np.uint8]
) -> None:
    codes = encode(test_images)
    error = ((decode(codes).astype(float) - test_images) / 255) ** 2
    of_images = error.reshape(len(error), -1).mean(axis=1)
    _, counts = np.unique(codes, return_counts=True)
    share = counts / counts.sum()
    grey = [torch.from_numpy(array).permute(0, 3, 1, 2) / 255 for array in (decode(codes), test_images)]
    similarity = torch.as_tensor(structural_similarity_index_measure(grey[0], grey[1], data_range=1.0))
    measures, training = manifest.measures
    assert (training.of, training.split, training.images) == ("training", "training", 256)
    assert training.values == {"steps": 16}
    assert (measures.dataset, measures.split, measures.images) == ("mnist", "test", 100)
    assert measures.values == pytest.approx(
        {
            "mse": error.mean(),
            "psnr": np.mean(10 * np.log10(1 / of_images)),
            "explained_variance": 1 - error.mean() / (test_images / 255).var(axis=0, ddof=1).mean(),
            "perplexity": np.exp(-np.sum(share * np.log(share))),
            "usage": len(counts) / 16,
            "ssim": float(similarity.mean()),
        },
        rel=1e-6,
    )


def test_the_manifest_says_how_far_outputs_see(trained: Trained, manifest: Manifest) -> None:
    model = trained.model
    assert manifest.operations["encode"].tiling == model.encoder.tiling()
    assert manifest.operations["decode"].tiling == model.decoder.tiling()


def test_a_halo_that_the_graph_exceeds_is_not_published(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_models.without_onnx(monkeypatch)
    monkeypatch.setattr(Encoder, "tiling", lambda _: Tiling(receptive_field=4, halo=0))
    with pytest.raises(ExportError, match=r"encoder\.onnx depends on more than its halo of 0 cells"):
        again(trained, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_parity_was_looked_at(manifest: Manifest) -> None:
    assert manifest.parity is not None
    assert (manifest.parity.images, manifest.parity.codes) == (100, 100 * 49)
    assert manifest.parity.within_one_level >= 0.999
    assert manifest.parity.flip_gap <= FLIP_GAP


def test_the_preview_shows_originals_above_reconstructions(
    folder: Path, encode: Run, decode: Run, test_images: NDArray[np.uint8]
) -> None:
    with Image.open(folder / "preview.png") as image:
        preview = np.asarray(image.convert("L"))
    # 16 to a row, two pixels between them.
    assert preview.shape == (4 * 30 + 2, 16 * 30 + 2)
    decoded = decode(encode(test_images[:1]))[0, :, :, 0].astype(int)
    assert np.array_equal(preview[2:30, 2:30], test_images[0, :, :, 0])
    assert np.abs(preview[32:60, 2:30] - decoded).max() <= 1


def in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an encoder look the cells of a small image up in four blocks."""
    monkeypatch.setattr(lookup, "DISTANCES", 16 * lookup.FEWEST_ROWS)


def test_an_encoder_with_a_loop_has_a_graph_without_one_for_cuda(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_blocks(monkeypatch)
    tiny_models.without_onnx(monkeypatch)
    again(trained, tmp_path)
    folder = tmp_path / "tiny"
    manifest = Manifest.model_validate_json((folder / FILE_NAME).read_text())
    operation = manifest.operations["encode"]
    assert (operation.graph, operation.provider_graphs) == ("encoder.onnx", {"cuda": "encoder.cuda.onnx"})
    assert operation.graphs <= manifest.files.keys()
    assert "`encode` (encoder.onnx; encoder.cuda.onnx on CUDA): " in (folder / "README.md").read_text()


def test_a_graph_for_cuda_that_disagrees_is_not_published(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(graph: Graph, inputs: Mapping[str, torch.Tensor]) -> Sequence[torch.Tensor]:
        found = tiny_models.run_in_torch(graph, inputs)
        return [(codes + 1) % 16 for codes in found] if "cuda" in graph.file else found

    in_blocks(monkeypatch)
    tiny_models.without_onnx(monkeypatch, run)
    with pytest.raises(ExportError, match=r"those of a variant"):
        again(trained, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_in_the_folder_tells_of_the_machine(trained: Trained, folder: Path) -> None:
    places = (str(trained.config.out.parent), str(trained.config.data), str(Path.home()), ".py")
    for path in folder.iterdir():
        content = path.read_bytes()
        assert [place for place in places if place.encode() in content] == [], path.name


def test_everyone_may_read_it(folder: Path) -> None:
    assert folder.stat().st_mode & 0o055 == 0o055


def again(trained: Trained, export_to: Path) -> None:
    """Export the trained model once more, elsewhere."""
    export(trained.model, None, trained.config.model_copy(update={"export_to": export_to}), trained.dataset)


@pytest.mark.parametrize("refused", [None, "no graphs in precision 16: too many codes differ"])
def test_half_precision_is_in_the_manifest_and_on_the_card_if_it_agrees(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str | None
) -> None:
    agreement = Agreement(images=100, codes_equal=0.9975, psnr_lost=0.0123, within_one_level=0.99999)

    def in_half(_: object, folder: Path, precision: HalfPrecision, *__: object) -> Halved:
        if refused is not None:
            return Halved({}, refused)
        (folder / "encoder.fp16.onnx").touch()
        graphs = PrecisionGraphs(graphs={"encode": "encoder.fp16.onnx"}, agreement=agreement)
        return Halved({precision: graphs})

    tiny_models.without_onnx(monkeypatch)
    monkeypatch.setattr(exporter, "in_half", in_half)
    config = trained.config.model_copy(update={"export_to": tmp_path})
    made = export(trained.model, None, config, trained.dataset, precision="16")
    assert made.refused == refused
    card = (tmp_path / "tiny" / "README.md").read_text()
    said = (
        "Precision 16 (`encoder.fp16.onnx`) against float32 on 100 images: 99.75% of the codes are equal, "
        "0.0123 dB are lost, and 99.9990% of the pixels of equal codes are within 1 level of 255."
    )
    assert (said in card) is (refused is None)
    if refused is None:
        assert made.manifest.precisions["16"].agreement == agreement
        assert "encoder.fp16.onnx" in made.manifest.files
    else:
        assert made.manifest.precisions == {}


def fails(*_: object, **__: object) -> None:
    raise RuntimeError("no")


def test_a_failed_export_leaves_what_was_published(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "tiny"
    target.mkdir()
    (target / FILE_NAME).write_text("old")
    monkeypatch.setattr(exporter, "write_graphs", fails)
    with pytest.raises(RuntimeError, match="no"):
        again(trained, tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["tiny", FILE_NAME]
    assert (target / FILE_NAME).read_text() == "old"


def test_a_graph_that_does_not_load_is_an_error(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_garbage(_graphs: object, folder: Path, *_: object, **__: object) -> None:
        for file in GRAPHS:
            (folder / file).write_bytes(b"no graph")

    monkeypatch.setattr(exporter, "write_graphs", write_garbage)
    with pytest.raises(ExportError, match=r"ONNX Runtime does not run encoder\.onnx"):
        again(trained, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_exporting_leaves_the_model_as_it_was(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained.model.train()
    monkeypatch.setattr(exporter, "write_graphs", fails)
    with pytest.raises(RuntimeError, match="no"):
        again(trained, tmp_path)
    assert model.training
    model.eval()


def with_prior(trained: Trained, export_to: Path) -> VQVAEConfig:
    """The config of a model that is published elsewhere, with a prior."""
    return trained.config.model_copy(update={"export_to": export_to, "prior_epochs": 1})


@pytest.mark.slow
def test_what_it_was_trained_upon_may_be_elsewhere(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_models.without_onnx(monkeypatch)
    config = with_prior(trained, tmp_path)
    model = VQVAE(config, trained.dataset.spec, 1.0)
    model.load_state_dict(trained.model.state_dict())
    second = model.second_stage(10)
    expected = export(model, second, config, trained.dataset).manifest
    # A model on a GPU cannot be had here; like it, this one cannot compute beside its copy.
    model.double().train()
    found = export(model, second, config, trained.dataset, replace=True).manifest
    assert found.measures[0].values == pytest.approx(expected.measures[0].values)
    assert found.measures[0].values.keys() >= {"bits", "bits_given_class"}
    assert next(model.parameters()).dtype == torch.float64


def test_a_sampler_that_disagrees_is_not_published(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_models.without_onnx(monkeypatch)
    monkeypatch.setattr(PriorStage, "parity", lambda *_: 0.01)
    config = with_prior(trained, tmp_path)
    model = VQVAE(config, trained.dataset.spec, 1.0)
    with pytest.raises(ExportError, match=r"what a sampler drew is 0\.01 away from what torch draws"):
        export(model, model.second_stage(10), config, trained.dataset)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def generator(generating: Trained) -> Manifest:
    return Manifest.model_validate_json((generating.exported.folder / FILE_NAME).read_text())


def test_a_model_with_a_prior_has_a_sampler(generating: Trained, generator: Manifest) -> None:
    assert generator == generating.exported.manifest
    assert generator.operations.keys() == {"encode", "decode", "sample/autoregressive"}
    assert generator.labels == tuple("0123456789")
    sampler = generator.operations["sample/autoregressive"]
    assert sampler.parameters.keys() == {"temperature", "top_k", "guidance"}
    loaded = onnxruntime.InferenceSession(
        generating.exported.folder / sampler.graph, providers=["CPUExecutionProvider"]
    )
    assert [item.name for item in loaded.get_inputs()] == [item.name for item in sampler.inputs]
    assert [item.name for item in loaded.get_outputs()] == [item.name for item in sampler.outputs]


def test_a_model_without_one_has_no_labels(manifest: Manifest) -> None:
    assert manifest.labels is None
    assert manifest.parity is not None
    assert manifest.parity.draw_gap is None
    assert SAMPLES not in manifest.files


def test_a_prior_does_not_change_the_model(trained: Trained, generating: Trained) -> None:
    there, here = (each.exported.folder for each in (trained, generating))
    for name in ("codebook.safetensors", "preview.png"):
        assert (there / name).read_bytes() == (here / name).read_bytes()
    for name in GRAPHS:
        # With their weights, which lie elsewhere in the file as soon as there are others.
        assert onnx.load(there / name) == onnx.load(here / name)
    assert trained.exported.manifest.version != generating.exported.manifest.version


def test_the_bits_are_those_of_the_codes_under_the_prior(
    generating: Trained, generator: Manifest, encode: Run, test_images: NDArray[np.uint8]
) -> None:
    second = VQVAE(generating.config, generating.dataset.spec, 1.0).second_stage(10)
    assert second is not None
    checkpoint.load_weights(generating.run.stage("prior").latest_checkpoint(), second, averaged=True)
    codes = torch.from_numpy(encode(test_images)).long()
    whole = Ordered.of(torch.ones_like(codes, dtype=torch.bool))
    labels = generating.dataset.test.labels
    assert labels is not None
    for name, given in (("bits", torch.full_like(labels, 10)), ("bits_given_class", labels)):
        with torch.no_grad():
            nats = second.eval().network(codes, given, whole).sum(dim=1)
        bits = float(nats.mean()) / math.log(2)
        # A code that flips at a tie costs another image a few bits of some 196.
        assert generator.measures[0].values[name] == pytest.approx(bits, rel=1e-3)


def test_the_draws_were_compared_with_those_of_torch(generator: Manifest) -> None:
    assert generator.parity is not None
    assert generator.parity.draw_gap is not None
    assert generator.parity.draw_gap <= DRAW_GAP
    assert "draws differ only within" in generator.parity.tolerance


def test_samples_are_shown_in_the_folder_and_on_its_card(generating: Trained, generator: Manifest) -> None:
    with Image.open(generating.exported.folder / SAMPLES) as image:
        named = image.height - (10 * 30 + 2)
        assert (image.width, named) == (10 * 30 + 2, NAME_LINE + 2 * GAP)
        names, shown = np.split(np.asarray(image.convert("L")), [named])
    # Above each column there is its digit.
    assert all((names[:, 2 + 30 * column : 30 * column + 30] < PAPER).any() for column in range(10))
    model, _ = open_exported(generating.exported.folder)
    labels = torch.arange(100) % 10
    images = model.sample("sample/autoregressive", 100, SHOWN_SEED, labels).arrays[Role.images]
    # Row by row, two pixels between them.
    tiles = shown[2:].reshape(10, 30, -1)[:, :28, 2:].reshape(10, 28, 10, 30)[..., :28].transpose(0, 2, 1, 3)
    assert np.array_equal(tiles.reshape(100, 28, 28), images[..., 0].numpy())
    assert SAMPLES in generator.files
    card = (generating.exported.folder / "README.md").read_text()
    digits = ", ".join(f"`{digit}`" for digit in range(10))
    assert f"seed {SHOWN_SEED}, a column for each class: {digits}.\n\n![samples]({SAMPLES})" in card
    assert f"without a prior it is {49 * 4}." in card


def test_nothing_in_the_sampler_tells_of_the_machine(generating: Trained) -> None:
    content = (generating.exported.folder / "sample_autoregressive.onnx").read_bytes()
    assert [place for place in (str(Path.home()), "site-packages", ".py") if place.encode() in content] == []


def test_the_folder_is_no_larger_than_its_weights(generating: Trained) -> None:
    second = VQVAE(generating.config, generating.dataset.spec, 1.0).second_stage(10)
    assert second is not None
    parameters = [*generating.model.parameters(), *second.parameters()]
    weights = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    files = [*generating.exported.folder.glob("*.safetensors"), *generating.exported.folder.glob("*.onnx")]
    assert weights < sum(file.stat().st_size for file in files) < weights + 80_000


def test_graphs_are_built_once(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = VQVAE.graphs
    calls: list[VQVAE] = []

    def counted(model: VQVAE) -> list[Graph]:
        calls.append(model)
        return graphs(model)

    monkeypatch.setattr(VQVAE, "graphs", counted)
    tiny_models.without_onnx(monkeypatch)
    exporter.export(
        trained.model, None, trained.config.model_copy(update={"export_to": tmp_path}), trained.dataset
    )
    assert len(calls) == 1
