"""Imported models that are trained further."""

import io
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from rich.console import Console

from service.contract.manifest import ImageSpec, Manifest, Role
from tests.fixtures import pretrained_checkpoints, tiny_models, trained_models
from tests.fixtures.pretrained_checkpoints import SMALL
from tests.fixtures.tiny_models import Trained
from tests.unit.trainer.pretrained.pictures import pictures
from tests.unit.trainer.pretrained.weights import assert_starts_from
from tests.unit.trainer.resuming import assert_resumes_as_unbroken
from trainer import pipeline
from trainer.config import FinetuneConfig
from trainer.config.imported import Origin
from trainer.data.loading import load as load_data
from trainer.data.sizing import ImageOptions
from trainer.durable import read_published
from trainer.errors import ConfigError
from trainer.evaluation.exported_model import ExportedModel, open_exported
from trainer.pretrained.checkpoint_files import CheckpointFiles
from trainer.pretrained.families import FAMILIES
from trainer.pretrained.finetuned_model import FinetunedModel
from trainer.pretrained.importer import import_checkpoint, load
from trainer.training import initial_weights

COLOUR_16 = ImageSpec(channels=3, height=16, width=16)
VALUES: dict[str, Any] = {
    "name": "tiny",
    "epochs": 2,
    "batch_size": 32,
    "lr": 3e-3,
    "warmup_steps": 0,
    "device": "cpu",
    "precision": "32",
    "publish_anyway": True,
}
# One stage: a graph of two takes twice as long to export.
ONE_STAGE = {**SMALL, "block_out_channels": [8]} | {
    f"{side}_block_types": SMALL[f"{side}_block_types"][:1] for side in ("down", "up")
}
STAGES = {key: value for key, value in SMALL.items() if key not in ("scaling_factor", "_class_name")}
MAGVIT = {"ch": 32, "ch_mult": [1, 1], "num_res_blocks": 1, "in_channels": 3, "out_ch": 3, "z_channels": 4}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "autoencoder-kl": SMALL,
    "vq-model": {**STAGES, "num_vq_embeddings": 16, "latent_channels": 3},
    "autoencoder-tiny": {
        "encoder_block_out_channels": (8, 8),
        "decoder_block_out_channels": (8, 8),
        "num_encoder_blocks": (1, 1),
        "num_decoder_blocks": (1, 1),
    },
    "open-magvit2": {"ddconfig": {**MAGVIT, "resolution": 16}, "n_embed": 16, "embed_dim": 4},
}


def origin(family: str = "autoencoder-kl", **changes: Any) -> Origin:
    values = {**ARCHITECTURES[family], **changes}
    architecture = FAMILIES[family].config_class().of(values, "here").model_dump(mode="json")
    return Origin(
        name="it",
        version=None,
        family=family,
        channels=architecture.get("in_channels", 3),
        image_size=16,
        checkpoint={"file": "it.safetensors", "sha256": "0"},
        architecture=architecture,
    )


def model(config: FinetuneConfig) -> FinetunedModel:
    torch.manual_seed(0)
    return FinetunedModel(config, COLOUR_16, 0.1)


class Finetuned(NamedTuple):
    """A small import and what was made of it: the checkpoint, and the folder of both published models."""

    checkpoint: Path
    folder: Path

    def published(self, name: str) -> tuple[ExportedModel, Manifest]:
        return open_exported(self.folder / "exported" / name)


def _finetune(folder: Path) -> None:
    checkpoint, console = (
        pretrained_checkpoints.write(folder / "small", ONE_STAGE),
        Console(file=io.StringIO()),
    )
    import_checkpoint(checkpoint, console, export_to=folder / "exported")
    config = FinetuneConfig(
        **VALUES | {"name": "mine"},
        data=str(trained_models.digits()),
        init_from=folder / "exported" / "small",
        out=folder / "runs",
        export_to=folder / "exported",
    )
    pipeline.train(config, console)


@pytest.fixture(scope="module")
def finetuned() -> Finetuned:
    folder = trained_models.kept("finetuned", _finetune)
    return Finetuned(folder / "small", folder)


@pytest.mark.slow
def test_the_weights_are_those_of_the_checkpoint(finetuned: Finetuned) -> None:
    family = FAMILIES["autoencoder-kl"]
    config = family.config_class().of(ONE_STAGE, "here")
    model, _ = load(CheckpointFiles.find(finetuned.checkpoint), family, config)
    assert_starts_from(finetuned.folder / "exported" / "small", model.architecture)


@pytest.mark.slow
def test_codes_are_those_of_the_import_and_pictures_are_nearer(finetuned: Finetuned) -> None:
    (imported, before), (trained, after) = finetuned.published("small"), finetuned.published("mine")
    assert (after.image, after.codes, after.codebook) == (before.image, before.codes, before.codebook)
    assert after.parity is not None
    options = ImageOptions(size=16, channels=3)
    digits = load_data(str(trained_models.digits()), options).test.take(torch.arange(8)).images
    images = digits.permute(0, 2, 3, 1).contiguous().numpy()
    codes, errors = [], []
    for model in (imported, trained):
        given = {Role.images: images}
        codes.append(
            model.results(("encode",), range(8), given, default_noise=("encode",)).arrays[Role.codes]
        )
        decoded = model.results(("decode",), range(8), {Role.codes: codes[0]}).arrays[Role.images]
        errors.append(np.square(decoded.astype(float) - images).mean())
    assert np.array_equal(codes[0], codes[1])
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.slow
def test_the_manifest_and_the_card_say_what_it_comes_from(finetuned: Finetuned) -> None:
    before, after = (read_published(finetuned.folder / "exported" / name) for name in ("small", "mine"))
    assert before is not None
    assert after is not None
    start = Origin.model_validate(after.config["origin"])
    assert (start.name, start.version, start.family) == ("small", before.version, "autoencoder-kl")
    assert start.checkpoint == before.config["checkpoint"]
    card = (finetuned.folder / "exported" / "mine" / "README.md").read_text()
    assert f"fine-tuned from `small`, version {before.version}, whose codes it keeps: an import of" in card
    assert "few steps" not in card
    # And it may be trained further, by its run or by what was published.
    assert Origin.of(finetuned.folder / "runs" / "mine").name == "mine"
    again = FinetuneConfig(**VALUES, init_from=finetuned.folder / "exported" / "mine")
    initial_weights.load(again, finetuned.folder / "exported" / "mine", model(again))


@pytest.mark.slow
def test_an_import_without_the_note_of_its_weights_is_refused(finetuned: Finetuned, tmp_path: Path) -> None:
    older = shutil.copytree(finetuned.folder / "exported" / "small", tmp_path / "older")
    graph = onnx.load(older / "encoder.onnx", load_external_data=False)
    del graph.metadata_props[:]
    (older / "encoder.onnx").write_bytes(graph.SerializeToString())
    config = FinetuneConfig(**VALUES, init_from=older)
    message = r"is missing there; .*Import its checkpoint once more: diffusion_pytorch_model\.safetensors"
    with pytest.raises(ConfigError, match=message):
        initial_weights.load(config, older, model(config))


@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_a_few_steps_lower_the_loss(family: str, freeze: bool) -> None:
    trained = model(FinetuneConfig(**VALUES, origin=origin(family), freeze_encoder=freeze))
    if family == "vq-model":
        torch.nn.init.normal_(trained.net.get_buffer("quantizer.codebook"))
    before = {name: tensor.clone() for name, tensor in trained.net.state_dict().items()}
    images = torch.from_numpy(pictures(16, 16, 4)).permute(0, 3, 1, 2)
    parameters = [parameter for parameter in trained.parameters() if parameter.requires_grad]
    optimizer, losses = torch.optim.Adam(parameters, lr=3e-3), []
    for _ in range(12):
        step = trained(images)
        optimizer.zero_grad()
        step.loss.backward()
        assert all(parameter.grad is not None for parameter in parameters)
        optimizer.step()
        losses.append(float(step.metrics["loss"]))
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    changed = {name for name, tensor in trained.net.state_dict().items() if not tensor.equal(before[name])}
    assert any(name.startswith("decoder.") for name in changed)
    assert any(name.partition(".")[0] in trained.net.encodes for name in changed) == (not freeze)
    assert "quantizer.codebook" not in changed
    assert ("kl" in step.metrics) == (not freeze and trained.net.posterior)
    assert ("commitment_loss" in step.metrics) == (not freeze and trained.net.quantizer is not None)
    assert trained.eval().reconstruct(images).shape == images.shape


@pytest.mark.slow
def test_a_resumed_run_comes_to_the_same_result(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grey = origin(**ONE_STAGE | {"in_channels": 1, "out_channels": 1, "block_out_channels": [4]})
    places = {"data": str(digits), "out": tmp_path / "runs", "average_decay": 0.9, "batch_size": 64}
    config = FinetuneConfig(**VALUES | places, origin=grey, crop=8, freeze_encoder=False)
    assert_resumes_as_unbroken(config, 6, FinetunedModel, monkeypatch)


@pytest.mark.parametrize(
    ("values", "size", "named"),
    [
        ({}, 15, "image_size 15 should be a multiple of 2"),
        ({"crop": 9}, 16, "a crop of 9 pixels should be a multiple of 2"),
        ({"ms_ssim_weight": 1.0}, 8, "the ms_ssim_loss takes images of at least 11x11 pixels, not 8x8"),
    ],
)
def test_images_that_the_network_does_not_take(values: dict[str, Any], size: int, named: str) -> None:
    config = FinetuneConfig(**VALUES, origin=origin(), **values)
    with pytest.raises(ValueError, match=named):
        FinetunedModel(config, COLOUR_16.model_copy(update={"height": size, "width": size}), 0.1)


@pytest.mark.parametrize(("crop", "side"), [(None, 16), (8, 8), (16, 16), (18, 16)])
def test_it_learns_from_squares_or_from_wholes_that_are_no_larger(crop: int | None, side: int) -> None:
    trained = model(
        FinetuneConfig(**VALUES, origin=origin(), crop=crop, adversarial=0.5, discriminator_layers=1)
    )
    step = trained.train()(tiny_models.images(2, 3, 16, 16))
    assert step.pictures is not None
    assert step.pictures[0].shape == (2, 3, side, side)


def test_what_is_no_import_is_refused(trained: Trained, tmp_path: Path) -> None:
    for path in (trained.exported.folder, trained.run.folder, tmp_path):
        with pytest.raises(
            ConfigError, match=rf"--init-from {path} is no imported model, none that was fine"
        ):
            FinetuneConfig(**VALUES, init_from=path)
    with pytest.raises(ConfigError, match="finetune starts from an imported model: name it with --init-from"):
        initial_weights.check(FinetuneConfig(**VALUES), None)


def test_an_adversary_plays_against_the_decoder() -> None:
    config = FinetuneConfig(**VALUES, origin=origin(), adversarial=0.5, discriminator_layers=1)
    trained = model(config)
    opponent = trained.opponent(10)
    assert opponent is not None
    images = tiny_models.images(4, 3, 16, 16)
    assert float(opponent(trained(images), 9).metrics["adversarial_weight"]) > 0
