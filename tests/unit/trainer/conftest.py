from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from service.contract.manifest import FILE_NAME, Manifest
from tests.fixtures import tiny_models, trained_models
from tests.fixtures.tiny_models import Trained
from trainer.config import NCPConfig, VAEConfig, VLAEConfig, VQVAEConfig
from trainer.data.loading import load
from trainer.export.exporter import Exported
from trainer.models.vqvae import VQVAE
from trainer.training import checkpoint
from trainer.training.run_folder import RunFolder

# The tensors here are so small that threads would only wait for each other.
torch.set_num_threads(1)

MakeConfig = Callable[..., VQVAEConfig]
MakeVAEConfig = Callable[..., VAEConfig]
MakeNCPConfig = Callable[..., NCPConfig]
MakeVLAEConfig = Callable[..., VLAEConfig]


@pytest.fixture(scope="session")
def digits() -> Path:
    """256 training and 100 test images of MNIST, as a folder of IDX files."""
    return trained_models.digits()


def places(digits: Path, folder: Path) -> dict[str, Any]:
    return {"data": str(digits), "out": folder / "runs", "export_to": folder / "exported"}


@pytest.fixture
def make_config(digits: Path, tmp_path: Path) -> MakeConfig:
    """Makes tiny configs whose runs and models go below ``tmp_path``."""
    return lambda **changes: tiny_models.config(**places(digits, tmp_path) | changes)


@pytest.fixture
def make_vae_config(digits: Path, tmp_path: Path) -> MakeVAEConfig:
    return lambda **changes: tiny_models.vae_config(**places(digits, tmp_path) | changes)


@pytest.fixture
def make_vlae_config(digits: Path, tmp_path: Path) -> MakeVLAEConfig:
    return lambda **changes: tiny_models.vlae_config(**places(digits, tmp_path) | changes)


@pytest.fixture
def make_ncp_config(digits: Path, tmp_path: Path) -> MakeNCPConfig:
    return lambda **changes: tiny_models.ncp_config(**places(digits, tmp_path) | changes)


@pytest.fixture(scope="session")
def trained() -> Trained:
    """A tiny model, trained and published once for all tests that only look at it."""
    run, exported, printed = opened(trained_models.PLAIN)
    assert isinstance(run.config, VQVAEConfig)
    dataset = load(run.config.data)
    model = VQVAE(run.config, dataset.spec, 1.0)
    checkpoint.load_weights(run.latest_checkpoint(), model, averaged=False)
    return Trained(run.config, run, exported, printed, model.eval(), dataset)


@pytest.fixture(scope="session")
def generating(trained: Trained) -> Trained:
    """The same model again, to which a prior of two epochs was added afterwards, published with it."""
    run, exported, printed = opened(trained_models.WITH_PRIOR)
    assert isinstance(run.config, VQVAEConfig)
    return replace(trained, config=run.config, run=run, exported=exported, printed=printed)


def opened(name: str) -> tuple[RunFolder, Exported, str]:
    """The run of a model that is kept on disk, what was published of it, and what training printed."""
    folder = trained_models.folder_of(name)
    published = folder / "exported" / "tiny"
    manifest = Manifest.model_validate_json((published / FILE_NAME).read_text(encoding="utf-8"))
    printed = (folder / "printed.txt").read_text(encoding="utf-8")
    return RunFolder.open(folder / "runs" / "tiny"), Exported(published, manifest), printed
