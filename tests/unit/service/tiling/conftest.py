from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.contract.manifest import Role
from service.models.bundle import read_bundle
from service.models.model import BatchLimits, ServedModel
from service.models.scheduler import Scheduler
from service.models.validation import load_model
from service.runtime.providers import Provider
from service.tiling import tiles
from service.tiling.rows import ArrayRows, Rows
from tests.fixtures import convolutional_model
from tests.fixtures.convolutional_model import Architecture
from tests.unit.service.conftest import CPU

# The least tile of a model with a stride of 4 that runs in one thread.
TILE = 2 * 96 * 4**2

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


def images(rows: int, height: int, width: int, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (rows, height, width, channels), dtype=np.uint8)


def tiled(model: ServedModel, verb: str, array: Rows, scheduler: Scheduler | None = None) -> Any:
    """The call that runs a verb in tiles on arrays with a batch axis."""
    given = {Role.codes if verb == "decode" else Role.images: array}
    return tiles.run(scheduler or Scheduler(CPU), model, model.pipeline(verb), given, len(array), {})


def whole(model: ServedModel, verb: str, array: Rows) -> dict[Role, Rows]:
    given = {Role.codes if verb == "decode" else Role.images: array}
    return model.run(model.pipeline(verb), given, len(array), {}).arrays


class Reading(ArrayRows):
    """A source that remembers what is read."""

    def __init__(self, array: Rows) -> None:
        super().__init__(array)
        self.counts: list[int] = []

    def read(self, count: int, /) -> Rows:
        self.counts.append(count)
        return super().read(count)
