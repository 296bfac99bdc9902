import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fixtures import tiny_models
from tests.fixtures.tiny_models import Trained
from trainer import pipeline
from trainer.config import NCPConfig, VAEConfig, VLAEConfig, VQVAEConfig
from trainer.data import load
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
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """256 training and 100 test images of MNIST, as a folder of IDX files."""
    return tiny_models.write_digits(tmp_path_factory.mktemp("data") / "mnist")


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
def trained(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A tiny model, trained and published once for all tests that only look at it."""
    folder = tmp_path_factory.mktemp("trained")
    config = tiny_models.config(data=str(digits), out=folder / "runs", export_to=folder / "exported")
    console = tiny_models.console()
    exported = pipeline.train(config, console)
    run = RunFolder.open(config.out / config.name)
    dataset = load(config.data)
    model = VQVAE(config, dataset.spec, 1.0)
    checkpoint.load_weights(run.latest_checkpoint(), model, averaged=False)
    return Trained(config, run, exported, tiny_models.printed(console), model.eval(), dataset)


@pytest.fixture(scope="session")
def generating(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The same model again, to which a prior of two epochs was added afterwards, published with it."""
    folder = tmp_path_factory.mktemp("generating")
    shutil.copytree(trained.run.folder, folder / "tiny")
    console = tiny_models.console()
    flags = {"prior_epochs": 2, "export_to": folder / "exported"}
    exported = pipeline.resume("vqvae", folder, "tiny", flags, console)
    run = RunFolder.open(folder / "tiny")
    assert isinstance(run.config, VQVAEConfig)
    return replace(
        trained, config=run.config, run=run, exported=exported, printed=tiny_models.printed(console)
    )
