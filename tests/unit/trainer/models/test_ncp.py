import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.fixtures import tiny_models
from tests.unit.trainer.conftest import MakeNCPConfig, places
from tests.unit.trainer.resuming import assert_same
from trainer import pipeline
from trainer.errors import ConfigError, DivergenceError, ExportError, Interrupted
from trainer.export import exporter
from trainer.export.exporter import Exported
from trainer.models.base import Model, SecondStage, Stage, to_shares
from trainer.models.gaussian.noise_contrastive import ClassifierStage
from trainer.models.graph import Graph
from trainer.models.vae import VAE
from trainer.pipeline import publishing
from trainer.training.run_folder import RunFolder

pytestmark = pytest.mark.slow

SAMPLERS = {"sample/langevin", "sample/mala", "sample/sir"}


@dataclass(frozen=True)
class Trained:
    run: RunFolder
    exported: Exported
    printed: str


@pytest.fixture(scope="module")
def trained(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Both stages, trained once, and published without ONNX, whose graphs have tests of their own."""
    folder = tmp_path_factory.mktemp("ncp")
    console = tiny_models.console()
    with pytest.MonkeyPatch.context() as patch:
        tiny_models.without_onnx(patch)
        exported = pipeline.train(tiny_models.ncp_config(**places(digits, folder)), console)
    return Trained(RunFolder.open(folder / "runs" / "tiny"), exported, tiny_models.printed(console))


@pytest.fixture
def run(trained: Trained, tmp_path: Path) -> RunFolder:
    """A copy of the trained run."""
    return RunFolder.open(shutil.copytree(trained.run.folder, tmp_path / "runs" / "tiny"))


@pytest.fixture
def without_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_models.without_onnx(monkeypatch)
    monkeypatch.setattr("trainer.training.tracking.metrics.plot", lambda *_, **__: None)


def resume(run: RunFolder, **flags: Any) -> Exported:
    flags.setdefault("export_to", run.folder.parent.parent / "exported")
    return pipeline.resume(run, run.changed("ncp", flags), tiny_models.console())


def test_the_second_stage_is_of_the_models_own_codes_and_images() -> None:
    model = tiny_models.ncp().eval()
    stage = model.second_stage(10)
    assert stage is not None
    given = tiny_models.images(5)
    with torch.no_grad():
        inputs, of = stage.inputs(given), model.posterior(to_shares(given))
        assert torch.equal(inputs, torch.cat([of.mean, of.log_variance], dim=1))
        assert torch.equal(stage.decode(of.mean), model.decoded(of.mean))
    # Its weights are its own alone, and not the model's over again.
    assert {name.split(".")[0] for name in stage.state_dict()} == {"network"}


def test_the_epochs_of_both_stages_are_printed(trained: Trained) -> None:
    lines = trained.printed.splitlines()
    (place,) = (
        number for number, line in enumerate(lines) if line.startswith("second stage: classifier with")
    )
    for stage in (lines[:place], lines[place:]):
        epochs = [line.split("  ")[0] for line in stage if line.startswith("epoch ")]
        assert epochs == ["epoch 1/2", "epoch 2/2"]


def test_the_lowest_loss_is_logged_and_plotted_beside_the_loss(trained: Trained) -> None:
    stage = trained.run.stage("classifier")
    records = stage.records()
    assert [record["epoch"] for record in records] == [1, 2]
    assert records[0].keys() == {
        *("epoch", "step", "loss", "lowest_loss", "test_loss", "test_accuracy", "lr", "seconds"),
        "images_per_second",
    }
    assert all(record["lowest_loss"] <= record["loss"] for record in records)
    assert {path.name for path in (stage.folder / "plots").iterdir()} == {"loss.png", "lowest_loss.png"}
    assert {path.name for path in (stage.folder / "samples").iterdir()} == {"epoch-001.png", "epoch-002.png"}
    # Of its own stage alone.
    assert "lowest_loss" not in trained.run.records()[0]
    assert not (trained.run.folder / "plots" / "lowest_loss.png").exists()


def test_it_is_published_with_its_samplers_and_figures(trained: Trained) -> None:
    manifest = trained.exported.manifest
    assert manifest.kind == "ncp"
    assert manifest.operations.keys() == {
        *("encode", "decode", "score", "sample/prior", "sample/interpolate"),
        *SAMPLERS,
    }
    values = manifest.measures[0].values
    assert 0 < values["classifier_loss"] < 1
    assert 0 <= values["classifier_accuracy"] <= 1
    assert manifest.parity is not None
    draw_gap = manifest.parity.draw_gap
    # Torch against torch, but for states of one row after the other, not of all at once.
    assert draw_gap is not None
    assert draw_gap < 1e-5
    with Image.open(trained.exported.folder / "samples.png") as picture:
        assert picture.width > picture.height > 100


@pytest.mark.slow
@pytest.mark.usefixtures("without_onnx")
@pytest.mark.parametrize(("stage", "step"), [(VAE, 11), (ClassifierStage, 1), (ClassifierStage, 6)])
def test_wherever_it_is_interrupted_it_ends_in_the_same_weights(
    make_ncp_config: MakeNCPConfig,
    trained: Trained,
    monkeypatch: pytest.MonkeyPatch,
    stage: type[Stage],
    step: int,
) -> None:
    config = make_ncp_config()
    with monkeypatch.context() as patch:
        tiny_models.signal_in_step(patch, step, signal.SIGTERM, stage)
        with pytest.raises(Interrupted, match=r"To go on: python -m trainer ncp --resume --name tiny "):
            pipeline.train(config, tiny_models.console())
    left = RunFolder.open(config.out / "tiny")
    assert left.has_later_stage == (stage is ClassifierStage)
    torch.manual_seed(12345)
    resume(left)
    assert_same(left, trained.run, averaged=False)
    assert_same(left.stage("classifier"), trained.run.stage("classifier"))


@pytest.mark.usefixtures("without_onnx")
def test_the_classifier_may_be_given_more_epochs(run: RunFolder) -> None:
    before = (run.latest_checkpoint() / "model.safetensors").read_bytes()
    resume(run, classifier_epochs=3)
    assert [record["epoch"] for record in run.stage("classifier").records()] == [1, 2, 3]
    assert (run.latest_checkpoint() / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "value"), [("classifier_width", 8), ("classifier_lr", 0.5), ("epochs", 3), ("beta", 2.0)]
)
def test_what_the_classifier_hangs_on_may_not_change_once_it_was_begun(
    run: RunFolder, name: str, value: object
) -> None:
    before = getattr(run.config, name)
    with pytest.raises(ConfigError) as caught:
        resume(run, **{name: value})
    assert f"has {name} {before!r}, and now {value!r} is asked for" in str(caught.value)
    assert "Only classifier_epochs, compile, data, device, export_precision, export_to," in str(caught.value)


@pytest.mark.usefixtures("without_onnx")
def test_what_the_classifier_is_may_change_until_it_was_begun(run: RunFolder) -> None:
    shutil.rmtree(run.folder / "classifier")
    resume(run, classifier_epochs=1, classifier_width=8, classifier_layers=1)
    assert tiny_models.weights(run.stage("classifier"))["network.head.weight"].shape == (1, 8)


@pytest.mark.usefixtures("without_onnx")
def test_a_classifier_that_diverges_says_what_to_try(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(run.folder / "classifier")
    tiny_models.poison(monkeypatch, 6, ClassifierStage)
    with pytest.raises(DivergenceError, match=r"loss nan.*Try a lower --classifier-lr \(it is 0\.25\)"):
        resume(run, classifier_lr=0.25)


def published_with(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, wrong: tuple[str, int] | None
) -> Exported:
    """Publish, where an output, by its place, of an operation is a little off."""

    def tampered(graph: Graph, inputs: Mapping[str, Tensor]) -> Sequence[Tensor]:
        found = [
            tensor.clone(memory_format=torch.contiguous_format)
            for tensor in tiny_models.run_in_torch(graph, inputs)
        ]
        if wrong is not None and graph.operation == wrong[0] and found[wrong[1]].numel():
            found[wrong[1]].flatten(1)[-1, -1] += 0.01
        return found

    tiny_models.without_onnx(monkeypatch, tampered)
    return pipeline.export_run(
        run, run.published_as(export_to=run.folder.parent / "exported"), tiny_models.console()
    )


@pytest.mark.usefixtures("without_onnx")
@pytest.mark.parametrize(
    ("operation", "output"),
    # Codes and states of the chains, the code that was resampled, and what has no noise in it.
    [
        *(("sample/langevin", 0), ("sample/langevin", 1), ("sample/mala", 0), ("sample/mala", 1)),
        *(("sample/sir", 0), ("sample/interpolate", 0), ("sample/prior", 0)),
    ],
)
def test_graphs_that_were_tampered_with_are_not_published(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, operation: str, output: int
) -> None:
    with pytest.raises(ExportError, match=r"what a sampler drew is \S+ away .*; allowed is 0\.0001"):
        published_with(run, monkeypatch, (operation, output))
    assert not (run.folder.parent / "exported" / "tiny").exists()


@pytest.mark.usefixtures("without_onnx")
def test_those_that_were_not_are(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    stages: list[tuple[Model, SecondStage | None]] = []
    publish = exporter.export

    def noted(model: Model, second: SecondStage | None, *rest: Any, **more: Any) -> Exported:
        stages.append((model, second))
        return publish(model, second, *rest, **more)

    monkeypatch.setattr(publishing, "export", noted)
    assert published_with(run, monkeypatch, None).manifest.operations.keys() >= SAMPLERS
    ((model, second),) = stages
    assert second is not None
    # Of the classifier, the averaged weights.
    for stage, of, file in ((model, run, "model"), (second, run.stage("classifier"), "average")):
        stored = tiny_models.weights(of, f"{file}.safetensors")
        assert all(torch.equal(tensor, stored[name]) for name, tensor in stage.state_dict().items())
