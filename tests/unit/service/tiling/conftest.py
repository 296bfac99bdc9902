from collections.abc import Callable
from typing import Any

import pytest

from service.models.bundle import read_bundle
from service.models.model import BatchLimits, ServedModel
from service.models.validation import load_model
from service.runtime.providers import Provider
from tests.fixtures import convolutional_model
from tests.fixtures.convolutional_model import Architecture

Load = Callable[..., ServedModel]


@pytest.fixture(scope="session")
def convolutional(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Loads a convolutional model with random weights, by its architecture; each is written once."""
    folder = tmp_path_factory.mktemp("convolutional")

    def load(
        architecture: Architecture = Architecture(),  # noqa: B008 - frozen
        tile_pixels: int = 1,
        threads: int = 1,
        **manifest: Any,
    ) -> ServedModel:
        name = f"{abs(hash((architecture, *manifest.items()))):x}"
        if not (folder / name).exists():
            convolutional_model.write(folder, architecture, name=name, **manifest)
        provider = Provider("cpu", "a test asks for it", threads)
        limits = BatchLimits(pixels=2**15, tile_pixels=tile_pixels)
        return load_model(read_bundle(folder / name), provider, limits)

    return load
