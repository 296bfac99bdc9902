from pathlib import Path

import pytest

import tessera
from tests.fixtures import completion_model, continuous_model, toy_models


@pytest.fixture(autouse=True)
def no_variables_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TESSERA_URL", "TESSERA_CLIENT_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy models."""
    folder = tmp_path_factory.mktemp("toys")
    toy_models.write_levels(folder)
    completion_model.write(folder)
    continuous_model.write(folder)
    return folder


def loaded(folder: Path, name: str) -> tessera.Tokenizer:
    return tessera.load(folder / name, provider="cpu", threads=1)


@pytest.fixture(scope="session")
def levels(folder: Path) -> tessera.Tokenizer:
    return loaded(folder, "levels")


@pytest.fixture(scope="session")
def patchwork(folder: Path) -> tessera.Tokenizer:
    return loaded(folder, "patchwork")


@pytest.fixture(scope="session")
def wanderer(folder: Path) -> tessera.Tokenizer:
    return loaded(folder, "wanderer")
