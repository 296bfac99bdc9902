"""Tiled runs: the codes and the pixels of the whole, and what becomes of a run meanwhile."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contract.manifest import Role
from service.contract.runner import BatchSlice, Results
from service.errors import GraphFailed, TooLarge
from service.models.model import ServedModel
from service.models.scheduler import Scheduler
from service.tiling import tiles
from service.tiling.rows import Rows
from service.tiling.tiles import TiledPipeline
from tests.fixtures.convolutional_model import Architecture
from tests.unit.service.conftest import CPU
from tests.unit.service.tiling.conftest import TILE, Load, Reading, images, tiled, whole

architectures = st.builds(
    Architecture,
    channels=st.sampled_from([1, 3]),
    dim=st.sampled_from([1, 3, 8]),
    stride=st.sampled_from([2, 4, 8]),
    stem=st.sampled_from([8, 12]),
    # Channels that ONNX Runtime adds up in one block, and in two.
    trunk=st.sampled_from([16, 20, 136]),
    hidden=st.sampled_from([8, 9]),
    blocks=st.integers(1, 2),
    upsampling=st.sampled_from(["transposed", "nearest"]),
)


@given(
    architecture=architectures,
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    tile_cells=st.integers(1, 900),
    threads=st.sampled_from([1, 2]),
    seed=st.integers(0, 9),
)
def test_tiled_is_whole(
    convolutional: Load,
    architecture: Architecture,
    height: int,
    width: int,
    tile_cells: int,
    threads: int,
    seed: int,
) -> None:
    stride = architecture.stride
    model = convolutional(architecture, tile_cells * stride**2, threads)
    pixels = images(1, height * stride, width * stride, architecture.channels, seed)
    expected = whole(model, "reconstruct", pixels)
    results = asyncio.run(tiled(model, "reconstruct", pixels))
    for role in (Role.codes, Role.images):
        np.testing.assert_array_equal(results.arrays[role], expected[role])


@pytest.mark.parametrize("stride", [2, 4, 8])
@pytest.mark.parametrize("upsampling", ["transposed", "nearest"])
def test_a_smaller_halo_gives_something_else(convolutional: Load, stride: int, upsampling: Any) -> None:
    """So the halo is no larger than it must be, and the test above would notice a mistake of one cell."""
    architecture = Architecture(stride=stride, upsampling=upsampling)
    pixels = images(1, 60 * stride, 60 * stride)
    for closer in (0, 1):
        model = convolutional(architecture, 400 * stride**2, closer=closer)
        expected = whole(model, "encode", pixels)[Role.codes]
        codes = asyncio.run(tiled(model, "encode", pixels)).arrays[Role.codes]
        assert np.array_equal(codes, expected) == (closer == 0)
        decoded = asyncio.run(tiled(model, "decode", expected)).arrays[Role.images]
        assert np.array_equal(decoded, whole(model, "decode", expected)[Role.images]) == (closer == 0)


def test_tiles_are_not_so_small_that_sums_are_rounded_differently(convolutional: Load) -> None:
    """ONNX Runtime adds up 136 channels in one go for 30 cells, and in two parts for more than 64.

    In tiles of 30 cells, 7 of the million values were others.
    """
    architecture = Architecture(stride=4, trunk=136)
    codes = np.random.default_rng(0).integers(0, architecture.codes, (1, 1, 20_000), dtype=np.int32)
    model = convolutional(architecture, 30 * 4**2)
    decoded = asyncio.run(tiled(model, "decode", codes)).arrays[Role.images]
    np.testing.assert_array_equal(decoded, whole(model, "decode", codes)[Role.images])


def test_several_pictures_run_one_by_one(convolutional: Load) -> None:
    model, pixels = convolutional(tile_pixels=TILE), images(3, 96, 80)
    results = asyncio.run(tiled(model, "encode", pixels))
    np.testing.assert_array_equal(results.arrays[Role.codes], whole(model, "encode", pixels)[Role.codes])


def test_tiles_have_sizes_that_the_model_takes(convolutional: Load) -> None:
    """A block is 8 pixels, if cells of 4 pixels come in pairs."""
    model = convolutional(tile_pixels=TILE, multiple_of=8)
    pixels = images(1, 112, 104)
    operation = TiledPipeline(Scheduler(CPU), model, model.pipeline("encode"), {}).operations(112, 104)[0]
    assert operation.scales == {Role.images: 8, Role.codes: 2}
    results = asyncio.run(tiled(model, "encode", pixels))
    np.testing.assert_array_equal(results.arrays[Role.codes], whole(model, "encode", pixels)[Role.codes])


class Writing:
    """A sink that keeps what is written."""

    def __init__(self) -> None:
        self.strips: list[Rows] = []

    def write(self, rows: Rows, /) -> None:
        self.strips.append(rows)


def test_rows_are_read_once_and_written_strip_by_strip(convolutional: Load) -> None:
    model, pixels = convolutional(tile_pixels=TILE), images(1, 400, 60)
    source, sink = Reading(pixels[0]), Writing()
    pipeline = TiledPipeline(Scheduler(CPU), model, model.pipeline("reconstruct"), {})
    made = asyncio.run(pipeline.run(source, {Role.images: sink}))
    expected = whole(model, "reconstruct", pixels)
    assert made.keys() == {Role.codes}
    np.testing.assert_array_equal(made[Role.codes], expected[Role.codes][0])
    np.testing.assert_array_equal(np.concatenate(sink.strips), expected[Role.images][0])
    assert sum(source.counts) == 400
    assert max(source.counts) <= 100
    assert len(sink.strips) > 4


def test_every_tile_has_the_label(convolutional: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    labels: list[list[int]] = []
    run = ServedModel.run_batch

    def seen(model: ServedModel, pipeline: Any, slices: Sequence[BatchSlice], *more: Any) -> list[Results]:
        labels.extend(each.given[Role.label].tolist() for each in slices)
        return run(model, pipeline, slices, *more)

    model = convolutional(tile_pixels=TILE)
    monkeypatch.setattr(ServedModel, "run_batch", seen)
    given = {Role.images: images(2, 96, 96), Role.label: np.array([7, 8])}
    asyncio.run(tiles.run(Scheduler(CPU), model, model.pipeline("encode"), given, 2, {}))
    assert {label for each in labels for label in each} == {7, 8}
    assert labels == sorted(labels)


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        ({"tiled": False}, "encode: its manifest says nothing about tiling"),
        ({"tiled": False, "untiled": "it attends to all cells"}, "encode: it attends to all cells"),
    ],
)
def test_a_model_that_cannot_be_cut_says_why(
    convolutional: Load, manifest: dict[str, Any], reason: str
) -> None:
    model = convolutional(tile_pixels=TILE, **manifest)
    with pytest.raises(TooLarge, match=reason) as refused:
        asyncio.run(tiled(model, "reconstruct", images(1, 96, 96)))
    assert refused.value.members == {"given": 96 * 96, "allowed": TILE}
    assert "tile_pixels" in str(refused.value)


def test_a_tile_that_is_all_halo_is_refused(convolutional: Load) -> None:
    model = convolutional(Architecture(stride=8, blocks=8), tile_pixels=1)
    with pytest.raises(TooLarge, match="a tile needs 80 more pixels on each side"):
        asyncio.run(tiled(model, "encode", images(1, 800, 800)))


def test_outputs_of_another_size_are_no_picture(convolutional: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*given: Any) -> list[Results]:
        return [Results({Role.codes: np.zeros((len(each.items), 3, 3), np.int32)}, {}) for each in given[2]]

    model = convolutional(tile_pixels=TILE)
    monkeypatch.setattr(ServedModel, "run_batch", wrong)
    with pytest.raises(GraphFailed, match="for a tile of"):
        asyncio.run(tiled(model, "encode", images(1, 96, 96)))
