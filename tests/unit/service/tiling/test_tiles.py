"""Tiled runs: the codes and the pixels of the whole, and what becomes of a run meanwhile."""

import asyncio
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.batching.entries import QueueLimits
from service.contract.manifest import Role
from service.contract.runner import BatchSlice, Results
from service.errors import GraphFailed, Overloaded, QueueTimeout, TooLarge
from service.models.model import ServedModel
from service.models.scheduler import Scheduler
from service.tiling import tiles
from service.tiling.rows import ArrayRows, Rows
from service.tiling.tiles import TiledPipeline
from tests.fixtures.convolutional_model import Architecture
from tests.unit.service.conftest import CPU
from tests.unit.service.tiling.conftest import Load

PATIENCE = 10.0
# The least tile of a model with a stride of 4 that runs in one thread.
TILE = 2 * 96 * 4**2

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


def images(rows: int, height: int, width: int, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (rows, height, width, channels), dtype=np.uint8)


def tiled(model: ServedModel, verb: str, array: Rows, scheduler: Scheduler | None = None) -> Any:
    """The call that runs a verb in tiles on arrays with a batch axis."""
    given = {Role.codes if verb == "decode" else Role.images: array}
    return tiles.run(scheduler or Scheduler(CPU), model, model.pipeline(verb), given, len(array), {})


def whole(model: ServedModel, verb: str, array: Rows) -> dict[Role, Rows]:
    given = {Role.codes if verb == "decode" else Role.images: array}
    return model.run(model.pipeline(verb), given, len(array), {}).arrays


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


class Reading(ArrayRows):
    """A source that remembers what is read."""

    def __init__(self, array: Rows) -> None:
        super().__init__(array)
        self.counts: list[int] = []

    def read(self, count: int, /) -> Rows:
        self.counts.append(count)
        return super().read(count)


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


class Gate:
    """Batches that wait until they may run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.open, self.batches = threading.Event(), threading.Event(), 0
        run = ServedModel.run_batch

        def watched(*given: Any) -> list[Results]:
            self.batches += 1
            self.begun.set()
            assert self.open.wait(PATIENCE)
            return run(*given)

        monkeypatch.setattr(ServedModel, "run_batch", watched)


def test_a_cancelled_run_starts_no_further_strip(
    convolutional: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = convolutional(tile_pixels=TILE)
    gate, source = Gate(monkeypatch), Reading(images(1, 400, 60)[0])

    async def main() -> int:
        pipeline = TiledPipeline(Scheduler(CPU), model, model.pipeline("encode"), {})
        task = asyncio.create_task(pipeline.run(source))
        assert await asyncio.to_thread(gate.begun.wait, PATIENCE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        reads = len(source.counts)
        gate.open.set()
        await asyncio.sleep(0.1)
        return reads

    reads = asyncio.run(main())
    assert len(source.counts) == reads <= 2
    assert gate.batches == 1


def test_a_full_queue_refuses_another_picture_and_no_strip(
    convolutional: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both counts are full as soon as a picture is accepted."""
    model, pixels = convolutional(tile_pixels=TILE), images(2, 200, 60)
    expected = whole(model, "encode", pixels)[Role.codes]
    gate = Gate(monkeypatch)

    async def main() -> Results:
        scheduler = Scheduler(CPU, limits=QueueLimits(rows=1, nbytes=pixels.nbytes))
        task = asyncio.create_task(tiled(model, "encode", pixels, scheduler))
        assert await asyncio.to_thread(gate.begun.wait, PATIENCE)
        with pytest.raises(Overloaded, match="--max-queued-bytes"):
            await tiled(model, "encode", pixels, scheduler)
        gate.open.set()
        results: Results = await task
        # What was reserved is free again.
        await tiled(model, "encode", pixels, scheduler)
        return results

    np.testing.assert_array_equal(asyncio.run(main()).arrays[Role.codes], expected)


def test_a_strip_waits_no_longer_than_a_request_may(
    convolutional: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, pixels = convolutional(tile_pixels=TILE), images(1, 96, 96)
    gate = Gate(monkeypatch)

    async def main() -> None:
        scheduler = Scheduler(CPU, limits=QueueLimits(seconds=0.05))
        first = asyncio.create_task(tiled(model, "encode", pixels, scheduler))
        assert await asyncio.to_thread(gate.begun.wait, PATIENCE)
        # Another pipeline, so that they share no batch.
        with pytest.raises(QueueTimeout):
            await tiled(model, "reconstruct", images(1, 400, 400), scheduler)
        gate.open.set()
        await first

    asyncio.run(main())


def test_large_images_do_not_delay_small_ones(convolutional: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither as tiles nor whole: with more pixels than a batch, they run in another thread."""
    model = convolutional(tile_pixels=2**17)
    threads, niceness = dict[int, str](), dict[int, int]()
    run = ServedModel.run_batch
    begun, slow = threading.Event(), threading.Event()

    def watched(*given: Any) -> list[Results]:
        side = given[2][0].given[Role.images].shape[1]
        threads[side] = threading.current_thread().name.partition("_")[0]
        niceness[side] = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        if side > 32:
            begun.set()
            assert slow.wait(PATIENCE)
        return run(*given)

    monkeypatch.setattr(ServedModel, "run_batch", watched)

    async def main() -> None:
        scheduler = Scheduler(CPU, limits=QueueLimits(rows=1), on_loop_seconds=0)
        encode = model.pipeline("encode")

        def encoded(side: int) -> Any:
            return scheduler.run(model, encode, {Role.images: images(1, side, side)}, 1, {})

        large = [asyncio.create_task(encoded(256))]
        assert await asyncio.to_thread(begun.wait, PATIENCE)
        large.append(asyncio.create_task(encoded(256)))
        await asyncio.sleep(0)
        assert scheduler.is_full
        with pytest.raises(Overloaded):
            await encoded(256)
        scheduler.check(model, encode)
        await encoded(32)
        assert not any(each.done() for each in large)
        slow.set()
        await asyncio.gather(*large)

    asyncio.run(main())
    assert threads == {256: "large", 32: "batch"}
    assert niceness[256] > niceness[32] or sys.platform != "linux"
