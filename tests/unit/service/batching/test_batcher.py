"""Which entries share a batch, where it runs, and which errors they get."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batching.batcher import Batcher
from service.batching.entries import BatchReport, Entry, QueueLimits
from service.contract.manifest import Role
from service.contract.runner import BatchSlice, Results
from service.errors import BadValue, BatcherFailed, GraphFailed, Overloaded, QueueTimeout, TooLarge

PATIENCE = 10.0
Toy = Batcher[Hashable]
Run = Callable[[Hashable, Sequence[BatchSlice]], list[Results]]


class Doubler:
    """A fake model: returns twice the images, and records each batch and its thread."""

    def __init__(self) -> None:
        self.batches: list[tuple[Hashable, list[int]]] = []
        self.threads: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Semaphore(0)

    def __call__(self, key: Hashable, slices: Sequence[BatchSlice]) -> list[Results]:
        self.begun.release()
        assert self.gate.wait(PATIENCE)
        self.threads.append(threading.current_thread().name.partition("_")[0])
        rows = [int(value) for each in slices for value in each.given[Role.images]]
        self.batches.append((key, rows))
        if any(row < 0 for row in rows):
            raise GraphFailed("a negative row")
        return [Results({Role.images: each.given[Role.images] * 2}, {}) for each in slices]

    @property
    def rows(self) -> list[list[int]]:
        return [rows for _, rows in self.batches]


def entry(*rows: int, key: Hashable = "k", at_once: int = 4, operation: str = "o") -> Entry[Hashable]:
    return Entry(key, ("toy", operation), {Role.images: np.array(rows)}, len(rows), at_once)


def images(results: Results) -> list[int]:
    return [int(value) for value in results.arrays[Role.images]]


def with_batcher(run: Run, use: Callable[[Toy], Awaitable[Any]], **options: Any) -> Any:
    """The result of ``use``; afterwards the queues are empty."""

    async def main() -> Any:
        with ThreadPoolExecutor(8, "thread") as executor:
            batcher = Toy(run, executor, **options)
            result = await use(batcher)
            await asyncio.sleep(0)
            assert +Counter(batcher.queues.rows) == {}
            return result

    return asyncio.run(main())


async def running_task(batcher: Toy, run: Doubler, *first: int) -> "asyncio.Task[Results]":
    """A task whose batch runs in a thread until the gate is opened."""
    run.gate.clear()
    task = asyncio.create_task(batcher.submit(entry(*(first or (0,)), key="running")))
    assert await asyncio.to_thread(run.begun.acquire, timeout=PATIENCE)
    return task


async def waiting(batcher: Toy, *entries: Entry[Hashable]) -> "list[asyncio.Task[Results]]":
    """Tasks whose entries are queued."""
    tasks = [asyncio.create_task(batcher.submit(each)) for each in entries]
    await asyncio.sleep(0)
    return tasks


def test_a_single_entry_runs_without_delay() -> None:
    run = Doubler()
    assert images(with_batcher(run, lambda batcher: batcher.submit(entry(1, 2)))) == [2, 4]
    assert run.batches == [("k", [1, 2])]


def test_waiting_entries_share_a_batch_up_to_its_largest_size() -> None:
    run, reports = Doubler(), list[BatchReport]()

    async def use(batcher: Toy) -> list[list[int]]:
        first = await running_task(batcher, run)
        tasks = await waiting(batcher, entry(1), entry(2, 3), entry(4), entry(5))
        assert +Counter(batcher.queues.rows) == {("toy", "o"): 5}
        run.gate.set()
        await first
        return [images(await task) for task in tasks]

    assert with_batcher(run, use, on_batch=lambda _, report: reports.append(report)) == [
        [2],
        [4, 6],
        [8],
        [10],
    ]
    assert run.rows == [[0], [1, 2, 3, 4], [5]]
    assert [report.rows for report in reports] == [1, 4, 1]
    assert all(wait >= 0 for report in reports for wait in report.waits)


def test_keys_are_served_round_robin() -> None:
    run = Doubler()

    async def use(batcher: Toy) -> None:
        first = await running_task(batcher, run)
        keys = ["a", "b", "a", "b", "a"]
        tasks = await waiting(batcher, *(entry(row, key=key, at_once=2) for row, key in enumerate(keys, 1)))
        run.gate.set()
        await asyncio.gather(first, *tasks)

    with_batcher(run, use)
    assert run.batches[1:] == [("a", [1, 3]), ("b", [2, 4]), ("a", [5])]


def test_other_keys_run_between_the_batches_of_a_large_entry() -> None:
    run = Doubler()

    async def use(batcher: Toy) -> list[list[int]]:
        first = await running_task(batcher, run)
        tasks = await waiting(batcher, entry(*range(10)), entry(77))
        assert +Counter(batcher.queues.rows) == {("toy", "o"): 4 + 1}, "a large entry counts as one batch"
        run.gate.set()
        await first
        return [images(await task) for task in tasks]

    assert with_batcher(run, use) == [[2 * row for row in range(10)], [154]]
    assert run.rows == [[0], [0, 1, 2, 3], [77, 4, 5, 6], [7, 8, 9]]


def test_an_entry_of_several_batches_waits_for_the_first() -> None:
    run, reports = Doubler(), list[BatchReport]()

    async def use(batcher: Toy) -> None:
        await batcher.submit(entry(1, 2, 3, 4, 5, at_once=2))

    with_batcher(run, use, on_batch=lambda _, report: reports.append(report))
    assert [(report.rows, len(report.waits)) for report in reports] == [(2, 1), (2, 0), (1, 0)]


def test_slices_of_one_entry_may_run_in_parallel() -> None:
    async def use(batcher: Toy) -> list[int]:
        return images(await batcher.submit(entry(*range(9), at_once=2)))

    second = threading.Event()

    def run(_: Hashable, slices: Sequence[BatchSlice]) -> list[Results]:
        if 0 in slices[0].items:
            assert second.wait(PATIENCE), "the second slice does not wait for the first"
        else:
            second.set()
        return [Results({Role.images: each.given[Role.images]}, {}) for each in slices]

    assert with_batcher(run, use, concurrency=3) == list(range(9))


@pytest.mark.parametrize("on_loop_seconds", [0, PATIENCE])
def test_only_the_faulty_slice_of_a_failed_batch_fails(on_loop_seconds: float) -> None:
    run = Doubler()

    async def use(batcher: Toy) -> list[object]:
        await batcher.submit(entry(0, 0, 0))
        tasks = await waiting(batcher, entry(1), entry(-2), entry(3))
        return await asyncio.gather(*tasks, return_exceptions=True)

    good, bad, other = with_batcher(run, use, on_loop_seconds=on_loop_seconds)
    assert (images(good), images(other)) == ([2], [6])
    assert isinstance(bad, GraphFailed)


def test_an_error_in_the_first_slice_ends_the_entry() -> None:
    run = Doubler()
    with pytest.raises(GraphFailed):
        with_batcher(run, lambda batcher: batcher.submit(entry(*[-1] * 10)))
    assert len(run.batches) == 1


def test_a_cancelled_entry_is_neither_run_nor_counted() -> None:
    run = Doubler()

    async def use(batcher: Toy) -> None:
        in_progress = await running_task(batcher, run, *range(12))
        stays, leaves = await waiting(batcher, entry(1), entry(2))
        for each in (in_progress, leaves):
            each.cancel()
        await asyncio.sleep(0)
        assert +Counter(batcher.queues.rows) == {("toy", "o"): 1}
        run.gate.set()
        assert images(await stays) == [2]

    with_batcher(run, use)
    assert run.rows == [[0, 1, 2, 3], [1]]


@pytest.mark.parametrize(
    ("limits", "more", "complaint"),
    [(QueueLimits(rows=5), 5, "5 rows wait"), (QueueLimits(nbytes=48), 48, "48 bytes wait")],
)
def test_a_full_queue_refuses_entries(limits: QueueLimits, more: int, complaint: str) -> None:
    run = Doubler()

    async def use(batcher: Toy) -> None:
        first = await running_task(batcher, run)
        tasks = await waiting(batcher, entry(1, 2, 3), entry(4, 5))
        with pytest.raises(Overloaded, match=rf"{complaint}.*--max-queued") as caught:
            await batcher.submit(entry(6))
        assert (caught.value.status, caught.value.headers) == (429, {"Retry-After": "1"})
        assert caught.value.members["given"] == caught.value.members["allowed"] == more
        if limits.rows == 5:
            assert len(await waiting(batcher, entry(7, operation="another"))) == 1
        run.gate.set()
        await asyncio.gather(first, *tasks)
        assert images(await batcher.submit(entry(6))) == [12]

    with_batcher(run, use, limits=limits)


def test_an_entry_over_the_limit_runs_if_the_queue_is_empty() -> None:
    results = with_batcher(
        Doubler(), lambda batcher: batcher.submit(entry(*range(9))), limits=QueueLimits(rows=2)
    )
    assert len(images(results)) == 9


def test_results_that_have_no_room_are_refused_after_the_first_batch() -> None:
    run = Doubler()

    def chain(key: Hashable, slices: Sequence[BatchSlice]) -> list[Results]:
        made = [each.arrays[Role.images] for each in run(key, slices)]
        return [Results({Role.states: np.stack([rows] * 4, axis=1)}, {}) for rows in made]

    async def use(batcher: Toy) -> None:
        with pytest.raises(TooLarge, match=r"results of 9 rows have 288 bytes, and 200 .* max_queued_bytes"):
            await batcher.submit(entry(*range(9)))
        assert run.rows == [[0, 1, 2, 3]]
        tasks = await waiting(batcher, entry(*range(5)), entry(0, 1, at_once=1, key="other"))
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(each) for each in outcomes] == [Results, Overloaded]
        assert "224 bytes of results wait, and the limit is 200" in str(outcomes[1])
        assert len((await batcher.submit(entry(*range(6)))).arrays[Role.states]) == 6

    with_batcher(chain, use, limits=QueueLimits(nbytes=200))


def test_a_late_entry_is_refused_at_once() -> None:
    run = Doubler()

    async def use(batcher: Toy) -> None:
        first = await running_task(batcher, run)
        with pytest.raises(QueueTimeout, match=r"queued for 0\.05 s.*--max-queue-seconds"):
            await batcher.submit(entry(1))
        assert not first.done(), "the timeout does not wait for the running batch"
        assert +Counter(batcher.queues.rows) == {}
        run.gate.set()
        await first
        assert images(await batcher.submit(entry(2))) == [4]

    with_batcher(run, use, limits=QueueLimits(seconds=0.05))
    assert run.rows == [[0], [2]]


def test_the_concurrency_limit() -> None:
    running, most = list[int](), [0]

    def run(_: Hashable, slices: Sequence[BatchSlice]) -> list[Results]:
        running.append(1)
        most[0] = max(most[0], len(running))
        time.sleep(0.01)
        running.pop()
        return [Results({Role.images: each.given[Role.images]}, {}) for each in slices]

    async def use(batcher: Toy) -> None:
        await asyncio.gather(*(batcher.submit(entry(1, key=key)) for key in range(12)))

    with_batcher(run, use, concurrency=2)
    assert most[0] == 2


def test_a_fast_batch_runs_on_the_event_loop() -> None:
    run = Doubler()

    async def use(batcher: Toy) -> None:
        for rows in ([0, 0], [1], [2, 3], [4, 5, 6], [7, 8, 9]):
            await batcher.submit(entry(*rows))
        await batcher.submit(entry(10, key="unknown"))

    with_batcher(run, use, on_loop_seconds=PATIENCE)
    assert run.threads == ["thread", "MainThread", "MainThread", "thread", "MainThread", "thread"]


def test_a_batch_that_is_slow_with_more_rows_runs_in_a_thread() -> None:
    run = Doubler()

    def slow(key: Hashable, slices: Sequence[BatchSlice]) -> list[Results]:
        time.sleep(0.05 if sum(len(each.items) for each in slices) > 2 else 0)
        return run(key, slices)

    async def use(batcher: Toy) -> None:
        for rows in ([0], [1], [2, 3, 4], [5, 6, 7], [8]):
            await batcher.submit(entry(*rows))

    with_batcher(slow, use, on_loop_seconds=0.04)
    assert run.threads == ["thread", "MainThread", "thread", "thread", "MainThread"]
    assert run.rows == [[0], [1], [2, 3, 4], [5, 6, 7], [8]]


def test_a_batch_that_fails_soon_is_no_fast_batch() -> None:
    run = Doubler()

    async def use(batcher: Toy) -> None:
        with pytest.raises(GraphFailed):
            await batcher.submit(entry(-1))
        await batcher.submit(entry(1))

    with_batcher(run, use, on_loop_seconds=PATIENCE)
    assert run.threads == ["thread", "thread"]


def test_a_fast_batch_runs_while_all_threads_are_busy() -> None:
    run = Doubler()

    async def use(batcher: Toy) -> None:
        await batcher.submit(entry(0, key="quick"))
        first = await running_task(batcher, run)
        (blocked, other) = await waiting(batcher, entry(1, key="blocked"), entry(2, key="other"))
        run.gate.set()
        quick = [batcher.submit(entry(row, key="quick")) for row in (3, 4, 5)]
        assert [images(each) for each in await asyncio.gather(*quick)] == [[6], [8], [10]]
        await asyncio.gather(first, blocked, other)

    with_batcher(run, use, on_loop_seconds=PATIENCE)
    assert ("quick", [3, 4, 5]) in run.batches


def test_unexpected_errors_are_logged_and_problems_are_not(caplog: pytest.LogCaptureFixture) -> None:
    for error, logged in ((BadValue("no"), False), (ZeroDivisionError(), True)):

        def wrong(_: Hashable, __: Sequence[BatchSlice], error: Exception = error) -> list[Results]:
            raise error

        with pytest.raises(type(error)):
            with_batcher(wrong, lambda batcher: batcher.submit(entry(1)))
        assert ("a batch failed" in caplog.text) is logged


def test_a_thread_that_ends_ends_the_batcher() -> None:
    class Killed(BaseException):
        pass

    begun, gate, failures = threading.Semaphore(0), threading.Event(), list[str]()

    def run(_key: Hashable, _slices: Sequence[BatchSlice]) -> list[Results]:
        begun.release()
        assert gate.wait(PATIENCE)
        raise Killed

    async def use(batcher: Toy) -> None:
        in_progress = asyncio.create_task(batcher.submit(entry(1)))
        assert await asyncio.to_thread(begun.acquire, timeout=PATIENCE)
        tasks = [in_progress, *await waiting(batcher, entry(2), entry(3, key="unlike"))]
        assert batcher.fatal_errors == []
        gate.set()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(outcome, BatcherFailed)
        assert batcher.fatal_errors == failures != []
        with pytest.raises(BatcherFailed):
            await batcher.submit(entry(4))

    with_batcher(run, use, on_failure=failures.append)


def test_a_hung_batch_is_a_fatal_error() -> None:
    run = Doubler()

    async def use(batcher: Toy) -> None:
        first = await running_task(batcher, run)
        await asyncio.sleep(0.03)
        assert ["--max-run-seconds" in each for each in batcher.fatal_errors] == [True]
        run.gate.set()
        await first
        assert batcher.fatal_errors == []

    with_batcher(run, use, limits=QueueLimits(run_seconds=0.01))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(-3, 50), min_size=1, max_size=9), st.sampled_from("abc"), st.booleans()
        ),
        min_size=1,
        max_size=20,
    ),
    st.integers(1, 6),
    st.sampled_from([0.0, PATIENCE]),
    st.integers(1, 3),
)
def test_every_entry_gets_its_own_results_or_is_cancelled(
    wanted: list[tuple[list[int], str, bool]], at_once: int, on_loop_seconds: float, concurrency: int
) -> None:
    run = Doubler()

    async def use(batcher: Toy) -> list[object]:
        tasks = await waiting(batcher, *(entry(*rows, key=key, at_once=at_once) for rows, key, _ in wanted))
        for task, (_, _, leaves) in zip(tasks, wanted, strict=True):
            if leaves:
                task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    outcomes = with_batcher(run, use, on_loop_seconds=on_loop_seconds, concurrency=concurrency)
    for (rows, _, leaves), outcome in zip(wanted, outcomes, strict=True):
        if leaves:
            assert isinstance(outcome, asyncio.CancelledError)
        elif min(rows) < 0:
            assert isinstance(outcome, GraphFailed)
        else:
            assert isinstance(outcome, Results)
            assert images(outcome) == [2 * row for row in rows]
    assert all(len(rows) <= at_once for rows in run.rows)
