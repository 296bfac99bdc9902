"""Tiled runs in the queue: cancelled, refused, late, and beside small images."""

import asyncio
import os
import sys
import threading
from typing import Any

import numpy as np
import pytest

from service.batching.entries import QueueLimits
from service.contract.manifest import Role
from service.contract.runner import Results
from service.errors import Overloaded, QueueTimeout
from service.models.model import ServedModel
from service.models.scheduler import Scheduler
from service.tiling.tiles import TiledPipeline
from tests.unit.service.conftest import CPU
from tests.unit.service.tiling.conftest import TILE, Load, Reading, images, tiled, whole

PATIENCE = 10.0


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
