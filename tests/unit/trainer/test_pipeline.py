import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from service.contract.manifest import Role
from tests.fixtures import tiny_models
from tests.fixtures.tiny_models import Trained
from tests.unit.trainer.conftest import MakeConfig
from tests.unit.trainer.data.making import noise, save
from tests.unit.trainer.resuming import assert_same
from trainer import durable, pipeline
from trainer.config import VQVAEConfig
from trainer.data.batches import Batches
from trainer.errors import ConfigError, DataError, DivergenceError, ExportError, Interrupted, RunError
from trainer.export.exporter import Exported
from trainer.models.base import Model, SecondStage, Stage, Step
from trainer.models.code_prior.stage import PriorStage
from trainer.models.vqvae import VQVAE
from trainer.pipeline import publishing
from trainer.training import checkpoint
from trainer.training.loop import Fit
from trainer.training.run_folder import RunFolder

Published = list[tuple[Model, SecondStage | None, VQVAEConfig]]


@pytest.fixture
def published(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> Published:
    """What is published is only noted here: an export takes seconds."""
    noted: Published = []

    def note(
        model: Model, second: SecondStage | None, config: VQVAEConfig, *_: object, **__: object
    ) -> Exported:
        noted.append((model, second, config))
        return trained.exported

    monkeypatch.setattr(publishing, "export", note)
    return noted


@pytest.fixture
def run(trained: Trained, tmp_path: Path) -> RunFolder:
    """A copy of the trained run."""
    return RunFolder.open(shutil.copytree(trained.run.folder, tmp_path / "runs" / "tiny"))


def resume(run: RunFolder, **flags: Any) -> str:
    """Resume a run with flags; what is printed."""
    flags.setdefault("export_to", run.folder.parent.parent / "exported")
    console = tiny_models.console()
    pipeline.resume(run, run.changed("vqvae", flags), console)
    return tiny_models.printed(console)


def same_weights(stage: Stage | None, run: RunFolder, file: str = "model.safetensors") -> bool:
    assert stage is not None
    stored = tiny_models.weights(run, file)
    return all(torch.equal(tensor, stored[name]) for name, tensor in stage.state_dict().items())


def test_training_prints_what_it_does(trained: Trained) -> None:
    lines = trained.printed.splitlines()
    published, out = trained.exported.folder, trained.run.folder.parent
    assert lines.pop(0).startswith("device: CPU with ")
    assert lines[:3] == [
        "  reading images",
        "data: 256 training and 100 test images, 28x28x1, 10 classes",
        f"run folder: {trained.run.folder}",
    ]
    assert lines[3].startswith("model: vqvae with ")
    assert lines[4:7] == [
        "steps of the model: 16 (--epochs 2, 8 steps each of 32 images)",
        "warning: these are few steps, and 4,400 are enough: with this data, "
        "--epochs 550, or --batch-size 16 --epochs 275",
        "  initialising the model",
    ]
    assert re.fullmatch(r"time: about \d+ \w+ for 2 epochs, by \d timed steps", lines[7])
    assert [line.split("  ")[0] for line in lines[8:10]] == ["epoch 1/2", "epoch 2/2"]
    assert lines[10:16] == [
        "exporting and measuring ...",
        "  tracing encode, 1 of 2",
        "  tracing decode, 2 of 2",
        "  verifying reconstructions",
        "  verifying the halo of encode",
        "  verifying the halo of decode",
    ]
    assert lines[16].startswith("mnist, test split, 100 images: mse 0.")
    assert lines[17:21] == [
        f"published {published} (version {trained.exported.manifest.version}). Next:",
        f"  serve     python -m service --models {published.parent}",
        "  reload    curl -X POST http://127.0.0.1:8000/models/reload",
        f"  evaluate  python -m trainer evaluate {published}",
    ]
    assert lines[21].startswith("warning: This model is ")
    assert "it was trained for 16 steps, and fewer than 1,400 are few. To train it further: " in lines[21]
    assert lines[21].endswith(f"python -m trainer vqvae --resume --name tiny --out {out} --epochs 550")
    assert len(lines) == 22


def test_training_notes_what_it_was_trained_on(trained: Trained) -> None:
    facts = trained.run.facts
    assert (facts["dataset"], facts["training_images"], facts["test_images"]) == ("mnist", 256, 100)
    assert facts["torch"] == torch.__version__
    assert "float32 as asked" in facts["machine"]


@pytest.mark.slow
def test_a_folder_of_mixed_pictures_makes_a_model_in_colour(
    tmp_path: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_models.without_onnx(monkeypatch)
    for index in range(12):
        save(noise(index, width=10 + 3 * index, height=30 - index), tmp_path / "pictures" / f"{index:02}.png")
    (tmp_path / "pictures" / "12.png").write_bytes(b"\x89PNG, or so it says")
    console = tiny_models.console()
    config = make_config(data=str(tmp_path / "pictures"), image_size=16, epochs=1, batch_size=4)
    manifest = pipeline.train(config, console).manifest
    assert "1 of 13 pictures skipped: 12.png (no picture in a known format)" in tiny_models.printed(console)
    image = manifest.image
    assert (image.channels, image.height, image.width, image.fit) == (3, 16, 16, "crop")
    assert manifest.codes.shape == (4, 4)
    assert manifest.measures[0].dataset == "pictures"
    assert (config.export_to / "tiny" / "manifest.json").is_file()


def test_pictures_that_are_all_alike_are_an_error(tmp_path: Path, make_config: MakeConfig) -> None:
    for index in range(4):
        save(noise(0).point(lambda _: 7), tmp_path / "grey" / f"{index}.png")
    config = make_config(data=str(tmp_path / "grey"))
    with pytest.raises(ConfigError, match="all pixels of grey are alike"):
        pipeline.train(config, tiny_models.console())
    assert not config.out.exists()


def test_images_that_do_not_fit_the_model_are_an_error(make_config: MakeConfig) -> None:
    config = make_config(stride=8)
    with pytest.raises(
        ConfigError, match=r"cannot be built for .*28x28 pixels are no multiple of the stride 8"
    ):
        pipeline.train(config, tiny_models.console())
    assert not config.out.exists()


def test_the_loss_is_told_how_the_data_varies(trained: Trained) -> None:
    split = trained.dataset.train
    pixels = split.take(torch.arange(len(split))).images.double() / 255
    assert float(trained.model.spread) == pytest.approx(float(pixels.var(correction=0)), rel=1e-5)


def test_where_nothing_can_be_written_nothing_is_trained(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(Fit, "begin", lambda _: pytest.fail("trained"))
    with pytest.raises(RunError, match="Not a directory"):
        pipeline.train(make_config(out=tmp_path / "file" / "below"), tiny_models.console())


@pytest.mark.slow
def test_a_finished_run_may_be_published_again(run: RunFolder, published: Published) -> None:
    before = tiny_models.figures(run)
    printed = resume(run)
    assert f"resuming {run.folder}, whose training is finished: epoch 2 of 2\n" in printed
    ((model, second, _),) = published
    assert second is None
    assert same_weights(model, run)
    assert tiny_models.figures(run) == before


@pytest.mark.slow
def test_a_run_may_be_given_more_epochs(run: RunFolder, published: Published) -> None:
    resume(run, epochs=3)
    assert [record["epoch"] for record in run.records()] == [1, 2, 3]
    assert same_weights(published[0][0], run)
    # Written down, so that the next --resume knows of it.
    assert RunFolder.open(run.folder).config.epochs == 3


def test_a_run_is_resumed_with_the_steps_it_was_begun_with(run: RunFolder) -> None:
    before = run.config.schedule()
    steps = before.epochs * (256 // before.batch_size)
    assert run.changed("vqvae", {"steps": steps}) == run.config
    assert run.changed("vqvae", {"steps": steps + 1}).epochs == before.epochs + 1


def test_a_run_is_not_trained_twice_at_once(run: RunFolder) -> None:
    before = (run.folder / "config.yaml").read_text()
    with (
        durable.locked(run.folder / "run.json"),
        pytest.raises(RunError, match="tiny is being trained by another command"),
    ):
        resume(run, epochs=3)
    assert (run.folder / "config.yaml").read_text() == before


def test_a_run_may_be_published_into_its_own_folder(
    run: RunFolder, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = []

    def export(*_: object, **__: object) -> Exported:
        with durable.locked(run.folder, wait=False) as free:
            assert free, "a publication would wait for its own command"
            published.append(run.folder)
        return trained.exported

    monkeypatch.setattr(publishing, "export", export)
    resume(run, export_to=run.folder)
    assert published == [run.folder]


@pytest.mark.parametrize("less", [{"epochs": 1}, {"steps": 1}])
def test_a_run_is_not_given_fewer_epochs_than_it_has_done(run: RunFolder, less: dict[str, int]) -> None:
    before = (run.folder / "config.yaml").read_text()
    with pytest.raises(ConfigError, match="has done 2 epochs, and now epochs 1 is asked for: give 2 or more"):
        resume(run, **less)
    assert (run.folder / "config.yaml").read_text() == before


@pytest.mark.parametrize(
    ("name", "value"), [("lr", 0.5), ("codebook_size", 32), ("seed", 1), ("holdout", 0.2), ("limit", 10)]
)
def test_what_would_make_it_another_run_is_refused_by_name(run: RunFolder, name: str, value: object) -> None:
    before = getattr(run.config, name)
    with pytest.raises(ConfigError) as caught:
        resume(run, **{name: value})
    assert f"has {name} {before!r}, and now {value!r} is asked for" in str(caught.value)
    assert "Only compile, data, device, epochs, export_precision, export_to," in str(caught.value)


def test_a_run_of_another_kind_is_refused(run: RunFolder) -> None:
    with pytest.raises(RunError, match="the run tiny is of kind 'vqvae', not 'vae'"):
        run.changed("vae", {})


def test_other_data_under_the_same_name_is_refused(tmp_path: Path, trained: Trained, run: RunFolder) -> None:
    other = tiny_models.write_digits(tmp_path / "mnist", train=255)
    run.configure(run.config.model_copy(update={"data": str(other)}))
    with pytest.raises(
        RunError,
        match=r"the data has changed: .* on {'training_images': 256}; now there is {'training_images': 255}",
    ):
        resume(run)


def test_data_may_be_moved_and_other_data_is_refused(
    tmp_path: Path, run: RunFolder, published: Published
) -> None:
    (tmp_path / "disk").mkdir()
    moved = tiny_models.write_digits(tmp_path / "disk" / "mnist")
    other = tiny_models.write_digits(tmp_path / "other")
    resume(run, data=str(moved))
    assert len(published) == 1
    assert RunFolder.open(run.folder).config.data == str(moved)
    with pytest.raises(RunError, match=r"the data has changed: .* on {'dataset': 'mnist'}; now there is"):
        resume(run, data=str(other))
    assert RunFolder.open(run.folder).config.data == str(moved)


@pytest.mark.slow
def test_the_averaged_weights_are_published(make_config: MakeConfig, published: Published) -> None:
    config = make_config(average_decay=0.9, epochs=1)
    pipeline.train(config, tiny_models.console())
    run = RunFolder.open(config.out / config.name)
    pipeline.export_run(run, run.config, tiny_models.console())
    for model, _, _ in published:
        assert same_weights(model, run, "average.safetensors")
        assert not same_weights(model, run)


def test_an_export_goes_where_the_run_says_or_where_it_is_told(
    run: RunFolder, published: Published, tmp_path: Path
) -> None:
    pipeline.export_run(run, run.config, tiny_models.console())
    pipeline.export_run(
        run, run.published_as(export_to=tmp_path / "there", name="other"), tiny_models.console()
    )
    places = [(config.export_to, config.name) for _, _, config in published]
    assert places == [(run.config.export_to, "tiny"), (tmp_path / "there", "other")]


def test_a_model_worse_than_the_mean_image_is_not_published_unless_asked(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_models.without_onnx(monkeypatch)
    config = run.published_as(export_to=tmp_path / "there", publish_anyway=False)
    with pytest.raises(ExportError) as refusal:
        pipeline.export_run(run, config, tiny_models.console())
    assert not list((tmp_path / "there").iterdir())
    assert "explained_variance -" in str(refusal.value)
    assert f"The run {run.folder} is kept. To train it further: " in str(refusal.value)
    assert "--resume --name tiny" in str(refusal.value)
    assert str(refusal.value).endswith(f" -m trainer export {run.folder} --publish-anyway")
    anyway = run.published_as(export_to=tmp_path / "there", publish_anyway=True)
    assert pipeline.export_run(run, anyway, tiny_models.console()).folder.is_dir()


def test_a_run_is_as_long_as_it_was_although_an_earlier_epoch_is_published(
    run: RunFolder, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[dict[str, float]] = []

    def note(*_: object, trained: dict[str, float], **__: object) -> Exported:
        steps.append(trained)
        return exported

    exported = trained.exported
    monkeypatch.setattr(publishing, "export", note)
    run.config = run.config.model_copy(update={"export_best": True})
    best = shutil.copytree(run.latest_checkpoint(), run.best / "step-00000001")
    (best / "checkpoint.json").write_text('{"epoch": 1, "step": 0, "total": 1}', encoding="utf-8")
    assert run.exported_checkpoint() == best
    pipeline.export_run(run, run.config, tiny_models.console())
    assert steps == [{"steps": checkpoint.read_position(run.latest_checkpoint()).total}]


def test_a_run_without_a_checkpoint_has_nothing_to_export(run: RunFolder, published: Published) -> None:
    shutil.rmtree(run.checkpoints)
    with pytest.raises(RunError, match="holds no checkpoint"):
        pipeline.export_run(run, run.config, tiny_models.console())
    assert published == []


def test_a_prior_may_be_added_to_a_run(trained: Trained, generating: Trained) -> None:
    before, run, prior = trained.run, generating.run, generating.run.stage("prior")
    assert run.config.model_copy(update={"prior_epochs": 0}) == before.config.model_copy(
        update={"export_to": generating.config.export_to, "out": generating.config.out}
    )
    assert tiny_models.figures(run) == tiny_models.figures(before)
    there, here = (each.latest_checkpoint() / "model.safetensors" for each in (before, run))
    assert there.read_bytes() == here.read_bytes()
    assert [record["epoch"] for record in prior.records()] == [1, 2]
    assert prior.records()[0].keys() == {
        *("epoch", "step", "loss", "test_bits", "lr", "seconds", "images_per_second"),
    }
    names = {str(path.relative_to(prior.folder)) for path in prior.folder.rglob("*.*") if path.is_file()}
    assert names >= {
        "metrics.jsonl",
        "samples/epoch-002.png",
        "plots/loss.png",
        "plots/test_bits.png",
        "checkpoints/step-00000008/model.safetensors",
        "checkpoints/step-00000008/average.safetensors",
    }
    assert list(prior.folder.glob("tensorboard/events.out.tfevents.*"))
    # Those are of a codebook.
    assert not {"plots/usage.png", "plots/perplexity.png"} & names


def test_it_tells_of_the_second_stage(generating: Trained) -> None:
    lines = generating.printed.splitlines()
    places = [number for number, line in enumerate(lines) if line.startswith("second stage: prior with ")]
    assert len(places) == 1
    rest = lines[places[0] + 1 :]
    assert rest[:3] == [
        "  computing its training inputs",
        "  computing its test inputs",
        "  initialising the prior",
    ]
    assert rest[3].startswith("time: about ")
    parts = [line.split("  ")[0] for line in rest[4:7]]
    assert parts == ["epoch 1/2", "epoch 2/2", "exporting and measuring ..."]
    assert "steps of the prior: 8 (--prior-epochs 2, 4 steps each of 64 images)" in lines
    sampling = f"  sample    python -m trainer sample {generating.exported.folder}"
    assert lines[-3] == sampling
    # Once the second stage has begun, the first can no longer be trained.
    assert "its prior was trained for 8 steps" in lines[-1]
    assert "--epochs" not in lines[-1]
    assert re.search(r"100 images: mse 0\..*  bits \d+\.?\d*  bits_given_class \d+", generating.printed)


@pytest.mark.slow
def test_the_prior_is_trained_on_the_codes_of_the_images_and_their_classes(
    trained: Trained, run: RunFolder, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    forward = PriorStage.forward

    def noted(self: PriorStage, inputs: Tensor, labels: Tensor | None = None) -> Step:
        assert labels is not None
        seen.append((inputs, labels))
        return forward(self, inputs, labels)

    monkeypatch.setattr(PriorStage, "forward", noted)
    resume(run, prior_epochs=1)
    encode = trained.model.graphs()[0].module.eval()
    with Batches(trained.dataset.train, 64, seed=run.config.seed) as batches:
        for (inputs, labels), batch in zip(seen, batches.epoch(0), strict=True):
            assert batch.labels is not None
            assert torch.equal(labels, batch.labels)
            with torch.no_grad():
                codes = encode(batch.images.permute(0, 2, 3, 1))
            # In another memory layout, float32 sums may break a tie between two codes the other way.
            assert (inputs == codes).float().mean() > 0.99


@pytest.mark.slow
def test_both_stages_are_trained_and_published(
    make_config: MakeConfig, published: Published, generating: Trained
) -> None:
    config = make_config(prior_epochs=2)
    pipeline.train(config, tiny_models.console())
    run = RunFolder.open(config.out / "tiny")
    ((model, second, _),) = published
    assert same_weights(model, run)
    assert same_weights(second, run.stage("prior"), "average.safetensors")
    # In one go or one after the other, it is the same prior.
    assert_same(run.stage("prior"), generating.run.stage("prior"))
    published.clear()
    pipeline.export_run(run, run.config, tiny_models.console())
    ((model, second, _),) = published
    assert same_weights(model, run)
    assert same_weights(second, run.stage("prior"), "average.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "step"), [(VQVAE, 11), (PriorStage, 1), (PriorStage, 4)])
def test_wherever_it_is_interrupted_it_ends_in_the_same_prior(
    make_config: MakeConfig,
    published: Published,
    generating: Trained,
    monkeypatch: pytest.MonkeyPatch,
    stage: type[Stage],
    step: int,
) -> None:
    config = make_config(prior_epochs=2)
    with monkeypatch.context() as patch:
        tiny_models.signal_in_step(patch, step, signal.SIGTERM, stage)
        with pytest.raises(Interrupted, match=r"To go on: python -m trainer vqvae --resume --name tiny "):
            pipeline.train(config, tiny_models.console())
    run = RunFolder.open(config.out / "tiny")
    assert run.has_later_stage == (stage is PriorStage)
    torch.manual_seed(12345)
    resume(run)
    assert_same(run.stage("prior"), generating.run.stage("prior"))
    assert len(published) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, DataError])
def test_a_run_that_ends_before_its_first_checkpoint_gives_its_name_back(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def end(_: Fit[Stage]) -> None:
        raise error

    monkeypatch.setattr(Fit, "begin", end)
    config = make_config()
    with pytest.raises(error):
        pipeline.train(config, tiny_models.console())
    assert list(config.out.iterdir()) == []


@pytest.fixture
def prior_run(generating: Trained, tmp_path: Path) -> RunFolder:
    """A copy of the run that has a prior."""
    return RunFolder.open(shutil.copytree(generating.run.folder, tmp_path / "runs" / "tiny"))


@pytest.mark.slow
def test_a_prior_may_be_given_more_epochs(prior_run: RunFolder, published: Published) -> None:
    first = prior_run.latest_checkpoint() / "model.safetensors"
    before = first.read_bytes()
    resume(prior_run, prior_epochs=10)
    prior = prior_run.stage("prior")
    assert [record["epoch"] for record in prior.records()] == [*range(1, 11)]
    # Without a prior each code takes 4 bits.
    assert 0 < prior.records()[-1]["test_bits"] < 0.9 * 49 * 4
    assert prior_run.latest_checkpoint().name == "step-00000016"
    assert first.read_bytes() == before
    assert same_weights(published[0][1], prior, "average.safetensors")


@pytest.mark.slow
def test_a_model_may_be_published_without_its_prior(prior_run: RunFolder, published: Published) -> None:
    resume(prior_run, prior_epochs=0)
    assert [second for _, second, _ in published] == [None]


@pytest.mark.slow
def test_what_the_prior_is_may_change_until_it_was_begun(run: RunFolder, published: Published) -> None:
    resume(run, prior_epochs=1, prior_width=8, prior_lr=0.01)
    assert tiny_models.weights(run.stage("prior"))["network.code.weight"].shape == (17, 8)
    assert published[0][2].prior_lr == 0.01


@pytest.mark.parametrize(("name", "value"), [("prior_width", 8), ("prior_lr", 0.5), ("epochs", 3)])
def test_what_the_prior_hangs_on_may_not_change_once_it_was_begun(
    prior_run: RunFolder, name: str, value: object
) -> None:
    before = getattr(prior_run.config, name)
    with pytest.raises(ConfigError) as caught:
        resume(prior_run, **{name: value})
    assert f"has {name} {before!r}, and now {value!r} is asked for" in str(caught.value)
    free = (
        "compile, data, device, export_precision, export_to, keep_checkpoints, precision, prior_epochs, "
        "prior_temperature, publish_anyway, stored_weights, wandb"
    )
    assert f"Only {free} may" in str(caught.value)
    assert getattr(RunFolder.open(prior_run.folder).config, name) == before


@pytest.mark.slow
def test_without_classes_the_prior_is_unconditional(
    tmp_path: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_models.without_onnx(monkeypatch)
    for index in range(12):
        save(noise(index), tmp_path / "pictures" / f"{index:02}.png")
    config = make_config(data=str(tmp_path / "pictures"), image_size=16, epochs=1, batch_size=4)
    config = config.model_copy(update={"prior_epochs": 1})
    console = tiny_models.console()
    manifest = pipeline.train(config, console).manifest
    assert "no classes" in tiny_models.printed(console)
    assert manifest.labels is None
    sampler = manifest.operations["sample/autoregressive"]
    assert not sampler.takes(Role.label)
    assert sampler.parameters.keys() == {"temperature", "top_k"}
    assert "bits" in manifest.measures[0].values
    assert "bits_given_class" not in manifest.measures[0].values


def test_a_run_whose_prior_was_not_begun_says_how_to_train_it(
    trained: Trained, published: Published, tmp_path: Path
) -> None:
    out = tmp_path / "two words"
    run = RunFolder.open(shutil.copytree(trained.run.folder, out / "tiny"))
    run.configure(run.config.model_copy(update={"prior_epochs": 1, "out": out}))
    with pytest.raises(RunError) as caught:
        pipeline.export_run(run, run.config, tiny_models.console())
    assert str(caught.value) == (
        f"{run.folder} has no checkpoint of its prior yet. To train it: "
        f"python -m trainer vqvae --resume --name tiny --out '{out}'"
    )
    assert published == []
    assert not (run.folder / "prior").exists()


@pytest.mark.slow
def test_a_prior_that_diverges_says_what_to_try(
    run: RunFolder, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_models.poison(monkeypatch, 6, PriorStage)
    with pytest.raises(DivergenceError) as caught:
        resume(run, prior_epochs=2, prior_lr=0.25)
    good = run.folder / "prior" / "checkpoints" / "step-00000004"
    assert "diverged in epoch 2, step 4: loss nan" in str(caught.value)
    assert f"The last good checkpoint is {good}. Try a lower --prior-lr (it is 0.25)" in str(caught.value)
    assert published == []
