"""Requests that share a batch, removed models, and the thread of a GPU."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.batching.entries import BatchReport, QueueLimits
from service.contract.manifest import Role
from service.contract.runner import BatchSlice, Results
from service.errors import QueueTimeout
from service.models.bundle import read_bundle
from service.models.model import BatchLimits, ServedModel
from service.models.scheduler import Scheduler
from service.models.validation import load_model
from service.observability.call_record import CallRecord, current_call
from service.runtime.session import Session
from tests.fixtures.fake_cuda import StandIn
from tests.unit.service.conftest import CPU

PATIENCE = 10.0
IMAGES = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)


class Watched:
    """A scheduler whose first batch waits at a gate while other entries queue; it records the batches."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[list[int]] = []
        self.reports: list[tuple[str, str, BatchReport]] = []
        self.gate, self.begun = threading.Event(), threading.Event()
        run = ServedModel.run_batch

        def watched(
            model: ServedModel, pipeline: Any, slices: Sequence[BatchSlice], *more: Any
        ) -> list[Results]:
            self.begun.set()
            assert self.gate.wait(PATIENCE)
            self.batches.append([len(each.items) for each in slices])
            return run(model, pipeline, slices, *more)

        monkeypatch.setattr(ServedModel, "run_batch", watched)
        self.scheduler = Scheduler(
            CPU,
            on_batch=lambda model, pipeline, report: self.reports.append(
                (model.manifest.name, pipeline.name, report)
            ),
        )


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


async def together(watched: Watched, *wanted: Any) -> list[Results]:
    """The results of the first request, and of the others that queue behind it."""
    tasks = [asyncio.create_task(wanted[0])]
    assert await asyncio.to_thread(watched.begun.wait, PATIENCE)
    tasks += [asyncio.create_task(each) for each in wanted[1:]]
    await asyncio.sleep(0)
    watched.gate.set()
    results: list[Results] = await asyncio.gather(*tasks)
    return results


def encoded(model: ServedModel, scheduler: Scheduler, rows: slice, seed: int, scale: float = 1) -> Any:
    given = {Role.images: IMAGES[rows]}
    return scheduler.run(
        model, model.pipeline_of("encode"), given, len(given[Role.images]), {"scale": scale}, seed
    )


def test_requests_in_one_batch_get_the_results_of_each_alone(
    watched: Watched, wandering: ServedModel
) -> None:
    """Each has the noise of its own seed."""
    wanted = [(slice(0, 1), 5), (slice(1, 4), 6), (slice(4, 6), 5), (slice(6, 9), 7)]

    async def main() -> list[Results]:
        return await together(
            watched, *(encoded(wandering, watched.scheduler, rows, seed) for rows, seed in wanted)
        )

    results = asyncio.run(main())
    assert watched.batches == [[1], [3, 2, 3]]
    assert [(name, pipeline, batch.rows) for name, pipeline, batch in watched.reports] == [
        ("wanderer", "encode", 1),
        ("wanderer", "encode", 8),
    ]
    for (rows, seed), result in zip(wanted, results, strict=True):
        count = rows.stop - rows.start
        alone = wandering.run(
            wandering.pipeline_of("encode"), {Role.images: IMAGES[rows]}, count, {"scale": 1}, seed
        )
        np.testing.assert_array_equal(result.arrays[Role.codes], alone.arrays[Role.codes])


@pytest.mark.slow
def test_requests_with_other_parameters_do_not_share_a_batch(
    watched: Watched, wandering: ServedModel
) -> None:
    async def main() -> None:
        scales = (1, 1, 2, 1, 2)
        await together(
            watched,
            *(encoded(wandering, watched.scheduler, slice(0, 1), 1, scale) for scale in scales),
        )

    asyncio.run(main())
    assert watched.batches == [[1], [1, 1], [1, 1]]


def test_images_of_another_size_do_not_share_a_batch(watched: Watched, levels: ServedModel) -> None:
    small, large = (np.zeros((1, side, 8, 1), np.uint8) for side in (8, 16))

    async def main() -> None:
        wanted = (small, small, large, small, large)
        await together(
            watched,
            *(
                watched.scheduler.run(levels, levels.pipeline_of("encode"), {Role.images: each}, 1, {})
                for each in wanted
            ),
        )

    asyncio.run(main())
    assert watched.batches == [[1], [1, 1], [1, 1]]


def test_samplers_do_not_delay_other_operations(watched: Watched, wandering: ServedModel) -> None:
    async def main() -> None:
        scheduler = watched.scheduler
        values = wandering.pipeline_of("sample/stroll").defaults
        sampled = asyncio.create_task(
            scheduler.run(wandering, wandering.pipeline_of("sample/stroll"), {}, 1, values)
        )
        assert await asyncio.to_thread(watched.begun.wait, PATIENCE)
        encoding = asyncio.create_task(encoded(wandering, scheduler, slice(0, 1), 1))
        await asyncio.sleep(0.05)
        assert not any(scheduler.waiting.values())
        watched.gate.set()
        await asyncio.gather(sampled, encoding)

    asyncio.run(main())


def test_waiting_rows_are_counted_by_model_and_pipeline(
    watched: Watched, wandering: ServedModel, levels: ServedModel
) -> None:
    async def main() -> None:
        scheduler = watched.scheduler
        tasks = [asyncio.create_task(encoded(wandering, scheduler, slice(0, 1), 1))]
        assert await asyncio.to_thread(watched.begun.wait, PATIENCE)
        images = {Role.images: np.zeros((3, 8, 8, 1), np.uint8)}
        tasks.append(
            asyncio.create_task(scheduler.run(levels, levels.pipeline_of("encode", "decode"), images, 3, {}))
        )
        await asyncio.sleep(0)
        assert scheduler.waiting["levels", "encode+decode"] == 3
        watched.gate.set()
        await asyncio.gather(*tasks)

    asyncio.run(main())


@pytest.mark.slow
def test_a_removed_model_is_freed(load: Callable[..., ServedModel]) -> None:
    scheduler, model = Scheduler(CPU, on_loop_seconds=0), load("levels")
    kept = weakref.ref(model)
    images = {Role.images: np.zeros((1, 8, 8, 1), np.uint8)}
    asyncio.run(scheduler.run(model, model.pipeline_of("encode"), images, 1, {}))
    del model
    # The thread of the batch may hold it until it is idle again.
    gc.collect()
    deadline = time.monotonic() + PATIENCE
    while kept() is not None and time.monotonic() < deadline:
        time.sleep(0.01)
        gc.collect()
    assert kept() is None


def test_rows_have_the_noise_of_their_items(wandering: ServedModel) -> None:
    async def main() -> list[Results]:
        scheduler = Scheduler(CPU)
        given = {Role.images: IMAGES[:4]}
        return [
            await scheduler.run(
                wandering, wandering.pipeline_of("encode"), given, 4, {"scale": 1}, 5, items=items
            )
            for items in (None, [2, 2, 0, 1])
        ]

    plain, chosen = (results.arrays[Role.codes] for results in asyncio.run(main()))
    alone = wandering.run_batch(
        wandering.pipeline_of("encode"), [BatchSlice({Role.images: IMAGES[:1]}, [2], 5)], {"scale": 1}
    )
    np.testing.assert_array_equal(chosen[:1], alone[0].arrays[Role.codes])
    assert not np.array_equal(plain, chosen)


def test_on_a_gpu_one_thread_runs_everything(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = set[str]()
    run = Session.run

    def seen(graph: Session, *more: Any) -> Any:
        threads.add(threading.current_thread().name)
        return run(graph, *more)

    monkeypatch.setattr(Session, "run", seen)
    provider = StandIn("cuda", "a test asks for it", 1)
    model = load_model(read_bundle(exported / "wanderer"), provider, BatchLimits())

    async def main() -> None:
        scheduler = Scheduler(provider, concurrency=3, sampler_concurrency=3)
        values = model.pipeline_of("sample/stroll", "decode").defaults
        sampled = [
            scheduler.run(model, model.pipeline_of("sample/stroll", "decode"), {}, 1, values, n)
            for n in range(3)
        ]
        await asyncio.gather(*sampled, *(encoded(model, scheduler, slice(0, 1), n) for n in range(6)))

    asyncio.run(main())
    assert threads == {"gpu_0"}


def test_the_record_of_a_call_has_its_rows_and_times(
    monkeypatch: pytest.MonkeyPatch, levels: ServedModel
) -> None:
    pipeline, given = levels.pipeline("encode"), {Role.images: np.zeros((3, 28, 28, 1), np.uint8)}
    run = ServedModel.run_batch

    def slow(*given: Any) -> list[Results]:
        time.sleep(0.2)
        return run(*given)

    monkeypatch.setattr(ServedModel, "run_batch", slow)
    scheduler = Scheduler(CPU, limits=QueueLimits(seconds=0.05))

    async def recorded() -> CallRecord:
        current_call.set(record := CallRecord())
        with suppress(QueueTimeout):
            await scheduler.run(levels, pipeline, given, 3, {})
            await scheduler.run(levels, pipeline, given, 3, {})
        return record

    async def main() -> None:
        first = asyncio.create_task(recorded())
        await asyncio.sleep(0.02)
        late = await asyncio.create_task(recorded())
        # Refused after 0.05 s in the queue.
        assert (late.rows, late.run_seconds) == (3, 0)
        assert late.queue_seconds >= 0.05
        twice = await first
        assert twice.rows == 6
        assert twice.run_seconds >= 0.4

    asyncio.run(main())
