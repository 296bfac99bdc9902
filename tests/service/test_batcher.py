"""Lanes: what goes together, what fails alone, who is told what."""

import asyncio
import ctypes
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batcher import Lane
from service.errors import BadValue, GraphFailed, LaneDied, Overloaded, QueueTimeout, ShuttingDown
from service.manifest import Role
from service.queued import Batch, Limits, Request
from service.rows import Part, Results

PATIENCE = 10.0


class Doubler:
    """In the place of a model: answers twice the images, and keeps who came together."""

    def __init__(self) -> None:
        self.batches: list[tuple[Hashable, list[int]]] = []
        self.threads: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Semaphore(0)

    def __call__(self, key: Hashable, parts: Sequence[Part]) -> list[Results]:
        self.begun.release()
        assert self.gate.wait(PATIENCE)
        self.threads.append(threading.current_thread().name)
        rows = [int(value) for part in parts for value in part.given[Role.images]]
        self.batches.append((key, rows))
        if any(row < 0 for row in rows):
            raise GraphFailed("a negative row")
        return [Results({Role.images: part.given[Role.images] * 2}, {}) for part in parts]


@contextmanager
def lane_of(
    run: Callable[[Hashable, Sequence[Part]], list[Results]],
    limits: Limits = Limits(),  # noqa: B008 - frozen
    slots: int = 1,
    told: list[Batch] | None = None,
    quick: float = 0.0,
) -> Iterator[Lane[Hashable]]:
    told = [] if told is None else told
    lane = Lane[Hashable]("toy", run, threading.Semaphore(slots), limits, told.append, quick=quick)
    try:
        yield lane
    finally:
        lane.close()
        assert lane.join(PATIENCE)


def request(*rows: int, key: Hashable = "k", at_once: int = 4, seed: int = 0) -> Request[Hashable]:
    return Request(key, {Role.images: np.array(rows)}, len(rows), at_once, seed)


def answer(results: Results) -> list[int]:
    return [int(value) for value in results.arrays[Role.images]]


async def held(lane: Lane[Hashable], run: Doubler, *first: int) -> "asyncio.Task[Results]":
    """A task whose batch is under way and goes on when the gate is opened."""
    run.gate.clear()
    task = asyncio.create_task(lane.submit(request(*(first or (0,)), key="held")))
    assert await asyncio.to_thread(run.begun.acquire, timeout=PATIENCE)
    return task


async def waiting(lane: Lane[Hashable], *requests: Request[Hashable]) -> "list[asyncio.Task[Results]]":
    """Tasks that have joined the queue."""
    tasks = [asyncio.create_task(lane.submit(each)) for each in requests]
    await asyncio.sleep(0)
    return tasks


async def run_once(lane: Lane[Hashable], first: Request[Hashable]) -> None:
    """How long it takes is known then, and the thread is asleep again."""
    await lane.submit(first)
    while not lane._slots.acquire(blocking=False):
        await asyncio.sleep(0.001)
    lane._slots.release()


def test_a_request_alone_waits_for_nothing() -> None:
    run = Doubler()
    with lane_of(run) as lane:
        assert answer(asyncio.run(lane.submit(request(1, 2)))) == [2, 4]
    assert run.batches == [("k", [1, 2])]


def test_what_waits_goes_together_up_to_the_most_rows() -> None:
    run, told = Doubler(), list[Batch]()

    async def main(lane: Lane[Hashable]) -> list[list[int]]:
        first = await held(lane, run)
        tasks = await waiting(lane, request(1), request(2, 3), request(4), request(5))
        run.gate.set()
        await first
        return [answer(await task) for task in tasks]

    with lane_of(run, told=told) as lane:
        assert asyncio.run(main(lane)) == [[2], [4, 6], [8], [10]]
        assert lane.waiting == 0
    assert [rows for _, rows in run.batches] == [[0], [1, 2, 3, 4], [5]]
    assert [batch.rows for batch in told] == [1, 4, 1]
    assert [len(batch.waits) for batch in told] == [1, 3, 1]
    assert all(wait >= 0 for batch in told for wait in batch.waits)


def test_only_like_goes_with_like_and_none_is_passed_over() -> None:
    run = Doubler()

    async def main(lane: Lane[Hashable]) -> None:
        first = await held(lane, run)
        tasks = await waiting(
            lane, request(1, key="a"), request(2, key="b"), request(3, key="a"), request(4, key="b")
        )
        run.gate.set()
        await asyncio.gather(first, *tasks)

    with lane_of(run) as lane:
        asyncio.run(main(lane))
    assert run.batches[1:] == [("a", [1, 3]), ("b", [2, 4])]


def test_a_request_of_many_rows_lets_others_in_between() -> None:
    run = Doubler()

    async def main(lane: Lane[Hashable]) -> list[list[int]]:
        first = await held(lane, run)
        tasks = await waiting(lane, request(*range(10)), request(77))
        run.gate.set()
        await first
        return [answer(await task) for task in tasks]

    with lane_of(run) as lane:
        assert asyncio.run(main(lane)) == [[2 * row for row in range(10)], [154]]
    assert [rows for _, rows in run.batches] == [[0], [0, 1, 2, 3], [77, 4, 5, 6], [7, 8, 9]]


def test_of_a_batch_that_fails_only_what_is_at_fault_does() -> None:
    run = Doubler()

    async def main(lane: Lane[Hashable]) -> list[object]:
        first = await held(lane, run)
        tasks = await waiting(lane, request(1), request(-2), request(3))
        run.gate.set()
        await first
        return await asyncio.gather(*tasks, return_exceptions=True)

    with lane_of(run) as lane:
        good, bad, other = asyncio.run(main(lane))
        assert lane.alive
    assert isinstance(good, Results)
    assert isinstance(other, Results)
    assert (answer(good), answer(other)) == ([2], [6])
    assert isinstance(bad, GraphFailed)


def test_an_error_in_the_first_piece_ends_the_request() -> None:
    run = Doubler()
    with lane_of(run) as lane:
        with pytest.raises(GraphFailed):
            asyncio.run(lane.submit(request(*[-1] * 10)))
        assert lane.waiting == 0
    assert len(run.batches) == 1


def test_whoever_leaves_is_not_run() -> None:
    run = Doubler()

    async def main(lane: Lane[Hashable]) -> None:
        first = await held(lane, run)
        stays, leaves = await waiting(lane, request(1), request(2))
        leaves.cancel()
        await asyncio.sleep(0)
        run.gate.set()
        await asyncio.gather(first, stays)
        with pytest.raises(asyncio.CancelledError):
            await leaves

    with lane_of(run) as lane:
        asyncio.run(main(lane))
        assert lane.waiting == 0
    assert [rows for _, rows in run.batches] == [[0], [1]]


def test_one_who_leaves_under_way_costs_no_further_piece() -> None:
    run = Doubler()

    async def main(lane: Lane[Hashable]) -> None:
        task = await held(lane, run, *range(12))
        task.cancel()
        await asyncio.sleep(0)
        run.gate.set()
        assert answer(await lane.submit(request(5))) == [10]

    with lane_of(run) as lane:
        asyncio.run(main(lane))
    assert [rows for _, rows in run.batches] == [[0, 1, 2, 3], [5]]


def test_too_much_that_waits_is_refused_with_a_time_to_come_again() -> None:
    run = Doubler()

    async def main(lane: Lane[Hashable]) -> None:
        first = await held(lane, run)
        tasks = await waiting(lane, request(1, 2, 3), request(4, 5))
        with pytest.raises(Overloaded, match=r"5 rows wait .* limit of 5") as caught:
            await lane.submit(request(6))
        assert (caught.value.status, caught.value.headers) == (429, {"Retry-After": "1"})
        assert caught.value.members == {"retry_after": 1, "given": 1, "allowed": 0}
        run.gate.set()
        await asyncio.gather(first, *tasks)
        assert answer(await lane.submit(request(6))) == [12]

    with lane_of(run, Limits(rows=5)) as lane:
        asyncio.run(main(lane))


def test_a_request_over_the_limit_runs_where_nothing_waits() -> None:
    with lane_of(Doubler(), Limits(rows=2)) as lane:
        assert len(answer(asyncio.run(lane.submit(request(*range(9)))))) == 9


def test_who_waited_for_too_long_is_told_so() -> None:
    run = Doubler()

    async def main(lane: Lane[Hashable]) -> None:
        first = await held(lane, run)
        (late,) = await waiting(lane, request(1))
        await asyncio.sleep(0.06)
        run.gate.set()
        await first
        with pytest.raises(QueueTimeout, match=r"waited 0\.\d s for toy, and 0\.05 s are allowed"):
            await late
        assert answer(await lane.submit(request(2))) == [4]

    with lane_of(run, Limits(seconds=0.05)) as lane:
        asyncio.run(main(lane))
        assert lane.waiting == 0
    assert [rows for _, rows in run.batches] == [[0], [2]]


def test_a_closed_lane_works_off_what_waits_and_takes_no_more() -> None:
    run = Doubler()

    async def main(lane: Lane[Hashable]) -> None:
        first = await held(lane, run)
        tasks = await waiting(lane, request(1), request(2, key="other"))
        lane.close()
        with pytest.raises(ShuttingDown, match="toy is being taken out of service"):
            await lane.submit(request(3))
        run.gate.set()
        await first
        assert [answer(await task) for task in tasks] == [[2], [4]]

    with lane_of(run) as lane:
        asyncio.run(main(lane))
        assert lane.join(PATIENCE)
        assert lane.alive, "it ended as it was told to"


def test_with_a_grace_latecomers_are_answered_until_none_comes() -> None:
    run = Doubler()

    async def main(lane: Lane[Hashable]) -> None:
        lane.close(grace=0.2)
        for late in range(3):
            await asyncio.sleep(0.05)
            assert answer(await lane.submit(request(late))) == [2 * late]

    with lane_of(run) as lane:
        asyncio.run(main(lane))
        assert lane.join(PATIENCE)
        with pytest.raises(ShuttingDown):
            asyncio.run(lane.submit(request(1)))


def test_lanes_share_their_slots() -> None:
    slots, running, most = threading.Semaphore(2), [], [0]

    def run(_: Hashable, parts: Sequence[Part]) -> list[Results]:
        running.append(1)
        most[0] = max(most[0], len(running))
        time.sleep(0.01)
        running.pop()
        return [Results({Role.images: part.given[Role.images]}, {}) for part in parts]

    lanes = [Lane[Hashable](str(index), run, slots) for index in range(5)]

    async def main() -> None:
        await asyncio.gather(*(lane.submit(request(1)) for lane in lanes for _ in range(3)))

    asyncio.run(main())
    for lane in lanes:
        lane.close()
        assert lane.join(PATIENCE)
    assert most[0] == 2


def test_an_error_of_ours_is_theirs_too(caplog: pytest.LogCaptureFixture) -> None:
    def wrong(_: Hashable, __: Sequence[Part]) -> list[Results]:
        raise ZeroDivisionError

    with lane_of(wrong) as lane:
        with pytest.raises(ZeroDivisionError):
            asyncio.run(lane.submit(request(1)))
        assert lane.alive
    assert "toy failed" in caplog.text


def test_problems_are_no_news_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(_: Hashable, __: Sequence[Part]) -> list[Results]:
        raise BadValue("no")

    with lane_of(refuse) as lane, pytest.raises(BadValue):
        asyncio.run(lane.submit(request(1)))
    assert caplog.text == ""


def test_what_was_quick_is_run_by_the_event_loop() -> None:
    run = Doubler()

    async def main(lane: Lane[Hashable]) -> list[list[int]]:
        await run_once(lane, request(0))
        return [answer(await task) for task in await waiting(lane, request(1), request(2), request(3, 4))]

    with lane_of(run, quick=PATIENCE) as lane:
        assert asyncio.run(main(lane)) == [[2], [4], [6, 8]]
        assert lane.waiting == 0
    assert run.batches == [("k", [0]), ("k", [1, 2, 3, 4])]
    assert run.threads == ["lane toy", "MainThread"]


def test_the_event_loop_runs_no_more_at_once_than_is_quick() -> None:
    run = Doubler()

    def slow(key: Hashable, parts: Sequence[Part]) -> list[Results]:
        time.sleep(0.02 * sum(len(part.items) for part in parts))
        return run(key, parts)

    async def main(lane: Lane[Hashable]) -> None:
        await run_once(lane, request(0))
        tasks = await waiting(lane, *[request(row) for row in range(1, 6)])
        await asyncio.gather(*tasks)

    with lane_of(slow, quick=0.05) as lane:
        asyncio.run(main(lane))
    assert all(len(rows) <= 2 for _, rows in run.batches)
    assert [row for _, rows in run.batches for row in rows] == list(range(6))


def test_what_was_slow_or_never_ran_is_left_to_the_thread() -> None:
    run = Doubler()

    def slow(key: Hashable, parts: Sequence[Part]) -> list[Results]:
        if key == "slow":
            time.sleep(0.05)
        return run(key, parts)

    async def main(lane: Lane[Hashable]) -> None:
        for key in ("slow", "slow", "k", "k", "other"):
            await run_once(lane, request(1, key=key))

    with lane_of(slow, quick=0.04) as lane:
        asyncio.run(main(lane))
    assert run.threads == ["lane toy", "lane toy", "lane toy", "MainThread", "lane toy"]


def test_the_event_loop_waits_for_no_slot() -> None:
    run, slots = Doubler(), threading.Semaphore(1)
    lane = Lane[Hashable]("toy", run, slots, quick=PATIENCE)

    async def main() -> list[int]:
        await run_once(lane, request(1))
        slots.acquire()
        task = asyncio.create_task(lane.submit(request(2)))
        await asyncio.sleep(0.02)
        assert not task.done()
        slots.release()
        return answer(await task)

    assert asyncio.run(main()) == [4]
    lane.close()
    assert lane.join(PATIENCE)
    assert run.threads == ["lane toy", "lane toy"]


def test_what_the_event_loop_runs_may_fail() -> None:
    run = Doubler()

    async def main(lane: Lane[Hashable]) -> list[object]:
        await run_once(lane, request(1))
        tasks = await waiting(lane, request(1), request(-2), request(3))
        return await asyncio.gather(*tasks, return_exceptions=True)

    with lane_of(run, quick=PATIENCE) as lane:
        good, bad, other = asyncio.run(main(lane))
        assert lane.alive
    assert isinstance(good, Results)
    assert isinstance(other, Results)
    assert isinstance(bad, GraphFailed)


def test_a_death_on_the_event_loop_is_that_of_the_lane_alone() -> None:
    class Killed(BaseException):
        pass

    def run(_key: Hashable, parts: Sequence[Part]) -> list[Results]:
        if threading.current_thread() is threading.main_thread():
            raise Killed
        return [Results({Role.images: part.given[Role.images]}, {}) for part in parts]

    async def main() -> None:
        lane = Lane[Hashable]("toy", run, threading.Semaphore(1), quick=PATIENCE)
        await run_once(lane, request(1))
        with pytest.raises(LaneDied):
            await lane.submit(request(2))
        assert not lane.alive
        assert await asyncio.to_thread(lane.join, PATIENCE), "there is nothing left for its thread to do"

    asyncio.run(main())


def test_a_thread_that_died_asleep_is_found_when_it_is_woken() -> None:
    lane = Lane[Hashable]("toy", Doubler(), threading.Semaphore(1))
    identity = ctypes.c_ulong(lane._thread.ident or 0)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(identity, ctypes.py_object(SystemExit))
    assert lane.alive
    lane.wake()
    assert lane.join(PATIENCE)
    assert not lane.alive


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(-3, 50), min_size=1, max_size=9), st.sampled_from("ab")),
        min_size=1,
        max_size=20,
    ),
    st.integers(1, 6),
    st.sampled_from([0.0, PATIENCE]),
)
def test_everyone_gets_their_own(wanted: list[tuple[list[int], str]], at_once: int, quick: float) -> None:
    run = Doubler()

    async def main(lane: Lane[Hashable]) -> list[object]:
        return await asyncio.gather(
            *(lane.submit(request(*rows, key=key, at_once=at_once)) for rows, key in wanted),
            return_exceptions=True,
        )

    with lane_of(run, quick=quick) as lane:
        outcomes = asyncio.run(main(lane))
        assert lane.waiting == 0
    for (rows, _), outcome in zip(wanted, outcomes, strict=True):
        if min(rows) < 0:
            assert isinstance(outcome, GraphFailed)
        else:
            assert isinstance(outcome, Results)
            assert answer(outcome) == [2 * row for row in rows]
    assert all(len(rows) <= at_once for _, rows in run.batches)


def test_who_waits_for_a_thread_that_dies_is_told_and_so_is_who_comes_later() -> None:
    class Killed(BaseException):
        pass

    begun, gate = threading.Semaphore(0), threading.Event()

    def run(_key: Hashable, _parts: Sequence[Part]) -> list[Results]:
        begun.release()
        assert gate.wait(PATIENCE)
        raise Killed

    async def main() -> None:
        lane = Lane[Hashable]("toy", run, threading.Semaphore(1))
        under_way = asyncio.create_task(lane.submit(request(1)))
        assert await asyncio.to_thread(begun.acquire, timeout=PATIENCE)
        tasks = [under_way, *await waiting(lane, request(2), request(3, key="unlike"))]
        assert lane.alive
        gate.set()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(outcome, LaneDied)
        assert not lane.alive
        assert lane.waiting == 0
        with pytest.raises(LaneDied, match="toy"):
            await lane.submit(request(4))

    asyncio.run(main())
