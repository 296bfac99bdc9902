import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from service.contract.manifest import FILE_NAME, ImageSpec
from tests.fixtures import tiny_models, trained_models
from tests.fixtures.tiny_models import Trained
from tests.unit.trainer.conftest import opened
from trainer.config import RunConfig
from trainer.errors import ConfigError, RunError
from trainer.export.exporter import export
from trainer.models.base import Model, build
from trainer.models.vae import VAE
from trainer.models.vqvae import VQVAE
from trainer.training import initial_weights
from trainer.training.checkpoint import WEIGHTS
from trainer.training.run_folder import CONFIG, RunFolder

COLOUR_16 = ImageSpec(channels=3, height=16, width=16)


def started(config: RunConfig, image: ImageSpec = tiny_models.GREY_28) -> Model:
    """A new model, drawn from another seed, with its initial weights."""
    torch.manual_seed(7)
    model = build(config, image, 0.1, 10)
    assert config.init_from is not None
    initial_weights.check(config, config.init_from)
    initial_weights.load(config, config.init_from, model)
    return model.eval()


def refusal(config: RunConfig, image: ImageSpec = tiny_models.GREY_28) -> str:
    with pytest.raises(ConfigError) as caught:
        started(config, image)
    return str(caught.value)


@pytest.mark.parametrize("source", ["run", "exported"])
def test_a_vqvae_starts_from_a_run_or_from_what_was_published(trained: Trained, source: str) -> None:
    path = trained.run.folder if source == "run" else trained.exported.folder
    model = started(tiny_models.config(init_from=path))
    images = tiny_models.images(3)
    assert torch.equal(model.reconstruct(images), trained.model.reconstruct(images))
    # These are of the new data, and of the new training.
    assert float(model.get_buffer("spread")) == pytest.approx(0.1)
    assert float(model.get_buffer("quantizer.steps")) == 0


@pytest.mark.parametrize("file", ["encoder.onnx", "weights.safetensors", "codebook.safetensors"])
def test_a_damaged_file_is_an_error_that_names_the_flag(trained: Trained, tmp_path: Path, file: str) -> None:
    damaged = shutil.copytree(trained.exported.folder, tmp_path / "damaged")
    content = (damaged / file).read_bytes()
    (damaged / file).write_bytes(content[: len(content) // 2])
    assert f"--init-from {damaged} cannot be read" in refusal(tiny_models.config(init_from=damaged))


@pytest.mark.slow
def test_a_vqvae_starts_from_weights_that_are_stored_in_float16(trained: Trained, tmp_path: Path) -> None:
    half = trained.config.model_copy(update={"stored_weights": "16", "export_to": tmp_path})
    published = export(trained.model, None, half, trained.dataset, measured=False, precision="16").folder
    model = started(tiny_models.config(init_from=published))
    for name, weight in trained.model.named_parameters():
        assert torch.equal(model.get_parameter(name), weight.half().float())


@pytest.mark.parametrize("source", ["run", "exported"])
def test_a_vae_starts_with_the_variance_of_its_errors(source: str) -> None:
    run, exported, _ = opened(trained_models.NCP)
    path = run.folder if source == "run" else exported.folder
    model = started(tiny_models.ncp_config(init_from=path, likelihood="gaussian"))
    assert isinstance(model, VAE)
    images = tiny_models.images(8)
    log_variance = model.likelihood.get_parameter("log_variance").detach()
    before = float(log_variance)
    model.begin([images])
    after = float(log_variance.exp())
    errors = (model.reconstruct(images).float() - images.float()) / 255
    assert before == pytest.approx(torch.tensor(0.1).log().item())
    assert after == pytest.approx(float(errors.square().mean()), rel=0.02)


def test_what_does_not_fit_is_named(trained: Trained) -> None:
    said = refusal(tiny_models.config(init_from=trained.run.folder, width=24))
    assert "encoder.3.weight is [16, 8, 4, 4] there and [24, 8, 4, 4] here; " in said
    assert said.endswith(" more. Of the config, width is 16 there and 24 here")
    said = refusal(tiny_models.config(init_from=trained.exported.folder), COLOUR_16)
    assert "encoder.0.weight is [8, 1, 4, 4] there and [8, 3, 4, 4] here; " in said
    assert "Of the config" not in said


def test_other_kinds_and_other_folders_are_refused(trained: Trained, tmp_path: Path) -> None:
    said = refusal(tiny_models.vae_config(init_from=trained.run.folder))
    assert said.endswith("is of kind 'vqvae', not 'vae'")
    said = refusal(tiny_models.config(init_from=tmp_path))
    assert said == f"--init-from {tmp_path} is neither a run folder nor a published model"
    imported = shutil.copytree(trained.exported.folder, tmp_path / "imported")
    manifest = json.loads((imported / FILE_NAME).read_text())
    (imported / FILE_NAME).write_text(json.dumps(manifest | {"kind": "autoencoder-kl"}))
    said = refusal(tiny_models.config(init_from=imported))
    assert "is an imported autoencoder-kl. To train it further: " in said
    assert said.endswith(f" finetune --init-from {imported}")


def test_another_number_of_levels_is_refused_by_its_flag(trained: Trained) -> None:
    for path in (trained.run.folder, trained.exported.folder):
        assert refusal(tiny_models.config(init_from=path, levels=2)) == (
            f"--levels is 2, and --init-from {path} has 1: give the same, or start from another model"
        )


def test_each_level_starts_from_its_own_published_codebook(trained: Trained, tmp_path: Path) -> None:
    exported = shutil.copytree(trained.exported.folder, tmp_path / "levels")
    manifest = json.loads((exported / FILE_NAME).read_text())
    manifest["config"]["levels"] = 2
    manifest["codes"]["shape"].append(2)
    manifest["codebook"]["shape"].insert(0, 2)
    (exported / FILE_NAME).write_text(json.dumps(manifest))
    codebook = torch.randn(2, 16, 4, generator=torch.Generator().manual_seed(0))
    save_file({manifest["codebook"]["tensor"]: codebook}, exported / manifest["codebook"]["file"])
    model = started(tiny_models.config(init_from=exported, levels=2))
    assert isinstance(model, VQVAE)
    assert torch.equal(model.codebook(), codebook)


def test_a_run_without_a_checkpoint_is_refused(trained: Trained, tmp_path: Path) -> None:
    run = shutil.copytree(trained.run.folder, tmp_path / "tiny", ignore=shutil.ignore_patterns("step-*"))
    with pytest.raises(RunError, match="holds no checkpoint"):
        initial_weights.check(tiny_models.config(), run)


def test_its_codebook_stays_where_it_is_and_goes_on_from_there(trained: Trained) -> None:
    model = started(tiny_models.config(init_from=trained.exported.folder))
    before = trained.model.codebook().clone()
    model.train()
    images = [tiny_models.images(32, seed=seed) for seed in range(2)]
    model.begin(images)
    codebook = model.codebook()
    assert codebook is not None
    assert torch.equal(codebook, before)
    model(images[0])
    moved = (model.get_buffer("quantizer.codebook") - before).norm(dim=1) / before.norm(dim=1)
    # At a decay of 0.99; a young codebook would have moved by half of the way.
    assert float(moved.median()) < 0.05


def test_a_learned_codebook_starts_from_the_code_vectors_of_simvq(trained: Trained, tmp_path: Path) -> None:
    run = shutil.copytree(trained.run.folder, tmp_path / "tiny")
    theirs = tiny_models.model(update="simvq")
    with torch.no_grad():
        theirs.quantizer.get_parameter("layer").mul_(3)
    save_file(theirs.state_dict(), RunFolder.open(run).exported_checkpoint() / WEIGHTS)
    values = yaml.safe_load((run / CONFIG).read_text())
    (run / CONFIG).write_text(yaml.safe_dump(values | {"update": "simvq"}))
    codebook = started(tiny_models.config(init_from=run)).codebook()
    assert codebook is not None
    assert torch.equal(codebook, theirs.codebook())
    said = refusal(tiny_models.config(init_from=trained.run.folder, update="simvq"))
    assert "quantizer.layer is missing there. Of the config, update is 'ema' there and 'simvq' here" in said


def test_code_vectors_of_any_length_are_scaled_for_a_lookup_on_the_sphere(trained: Trained) -> None:
    model = started(tiny_models.config(init_from=trained.run.folder, normalise_codes=True))
    model.begin([tiny_models.images(32)])
    codebook = model.codebook()
    assert codebook is not None
    assert codebook.norm(dim=1).numpy() == pytest.approx(1)
