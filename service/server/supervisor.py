"""Several workers at one address: started, watched, replaced, asked together, and stopped in order.

All have one listening socket, which outlives each of them: while a worker hangs or is replaced the others go
on accepting. uvicorn's own ``Multiprocess`` is not used: it asks a thread whether a worker lives, not its
event loop, waits for each worker in turn, and has no way to ask all of them something.

A worker is replaced
- when it ends: at once, and after a pause if it has ended before within a minute;
- when its event loop does not answer a ping within ``worker_timeout`` seconds: it is killed;
- when it answers that something of it is broken (``Context.ailments``): it is shut down gracefully.

The supervisor is one event loop that never waits for a worker: what a worker does not read is buffered, and a
worker for which too much is buffered is taken for hung.
"""

import asyncio
import logging
import multiprocessing
import pickle
import signal
import socket
from asyncio import Future, Task
from collections.abc import Callable, Collection, Coroutine, Sequence
from functools import partial
from typing import Any

from service.errors import Problem, ReloadFailed, StartupError
from service.models.registry import Reload
from service.server.control_channel import Answer, Failed, Question, Started
from service.server.worker_process import Worker, WorkerGone
from service.settings import Settings

log = logging.getLogger(__name__)

# Seconds between two starts of a worker that keeps ending: from the second on, and at most. Who has lived so
# long is started again at once.
PAUSE, LONGEST_PAUSE, SETTLED = 1.0, 30.0, 60.0
# Pings within the timeout of a worker: the timeout is counted in pings, so that a supervisor that was stopped
# itself does not take its workers for hung.
PINGS = 8
# Seconds that the graceful shutdown of a worker may take beyond ``drain_seconds``.
SLACK = 5.0

Work = Callable[[Settings, Sequence[socket.socket], int, socket.socket], None]


class Supervisor:
    """Runs ``work`` in as many processes as ``settings`` say, which all listen on the same sockets.

    ``ready`` is called once, when all have started.
    """

    def __init__(
        self, work: Work, settings: Settings, listeners: Sequence[socket.socket], ready: Callable[[], None]
    ) -> None:
        self._work, self._settings, self._listeners, self._ready = work, settings, listeners, ready
        self._spawn = multiprocessing.get_context("spawn")
        self._workers: dict[int, Worker] = {}
        self._pauses = dict.fromkeys(range(settings.workers), 0.0)
        self._tasks: set[Task[None]] = set()
        self._reloads = 0
        self._up = self._stopping = False

    def run(self) -> int:
        """Until a signal says otherwise, or a worker cannot start at first: the exit code, 0 or 130.

        Raises StartupError with that worker's reason.
        """
        return asyncio.run(self._run())

    async def _run(self) -> int:
        self._loop = asyncio.get_running_loop()
        self._reloading = asyncio.Lock()
        self._outcome: Future[int] = self._loop.create_future()
        self._code = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.add_signal_handler(number, self._stop, number)
        self._loop.add_signal_handler(signal.SIGHUP, lambda: self._begin(self._reload_quietly()))
        try:
            for index in range(self._settings.workers):
                self._start(index)
            self._begin(self._ping_all())
            return await self._outcome
        finally:
            for worker in self._workers.values():
                worker.process.kill()

    def _start(self, index: int) -> None:
        if self._stopping:
            return
        ours, theirs = socket.socketpair()
        process = self._spawn.Process(
            target=self._work,
            args=(self._settings, self._listeners, index, theirs),
            name=f"tessera-worker-{index}",
        )
        process.start()
        theirs.close()
        worker = self._workers[index] = Worker(index, process, self._reloads)
        self._begin(self._attend(worker, ours))

    async def _attend(self, worker: Worker, channel: socket.socket) -> None:
        """Hear what a worker says until it ends, and then start another."""
        ended: Future[None] = self._loop.create_future()

        def end() -> None:
            self._loop.remove_reader(worker.process.sentinel)
            ended.set_result(None)

        self._loop.add_reader(worker.process.sentinel, end)
        await worker.open(channel)
        listening = self._loop.create_task(worker.listen(partial(self._heard, worker)))
        await asyncio.wait([listening, ended], return_when=asyncio.FIRST_COMPLETED)
        # What it said last may come just after its end, such as why it cannot start.
        await asyncio.wait([listening, ended], timeout=SLACK)
        if not ended.done():
            worker.process.kill()
            await ended
        listening.cancel()
        self._ended(worker)

    def _heard(self, worker: Worker, message: Any) -> None:
        match message:
            case Started():
                worker.started = True
                if worker.reloads != self._reloads:
                    # It may have looked at the folder before the reload that it missed.
                    self._begin(self._reload_quietly())
                if not self._up and all(other.started for other in self._workers.values()):
                    self._up = True
                    self._ready()
            case Failed(reason) if not self._up:
                self._give_up(StartupError(reason))
            case Failed(reason):
                log.error("worker %d cannot start: %s", worker.index, reason)
            case Question(number, topic, seconds):
                self._begin(self._ask_for(worker, number, topic, seconds))

    async def _ask_for(self, asker: Worker, number: int, topic: str, seconds: float | None) -> None:
        if topic == "reload":
            said = [pickle.dumps(await self._reload())]
        elif topic == "workers":
            said = [pickle.dumps(sum(worker.answers for worker in self._workers.values()))]
        else:
            others = [each for each in self._workers.values() if each is not asker and each.answers]
            said = await self._ask([asker, *others], topic, seconds)
        asker.tell(Answer(number, said))

    async def _ask(
        self, workers: Collection[Worker], topic: str, seconds: float | None = None
    ) -> list[bytes]:
        """The pickled answer of each, or the pickled WorkerGone or TimeoutError in its place."""

        async def answer(asked: Future[bytes]) -> bytes:
            try:
                return await asyncio.wait_for(asked, seconds)
            except (WorkerGone, TimeoutError) as error:
                return pickle.dumps(error)

        return await asyncio.gather(*[answer(worker.ask(topic, seconds)) for worker in workers])

    async def _reload(self) -> Reload | Problem:
        """Load models anew in every worker: all prepare, and then all swap or none; one reload at a time."""
        async with self._reloading:
            workers = [worker for worker in self._workers.values() if worker.started and not worker.stopping]
            said = await self._ask_objects(workers, "prepare")
            problem = disagreement({worker.index: each for worker, each in said.items()})
            if problem is not None:
                await self._ask(said, "abandon")
                return problem
            self._reloads += 1
            for worker, done in (await self._ask_objects(said, "commit")).items():
                worker.reloads = self._reloads
                if isinstance(done, Exception):
                    log.error("worker %d could not swap its models, and is replaced", worker.index)
                    worker.process.kill()
            outcome: Reload = next(iter(said.values()))
            return outcome

    async def _reload_quietly(self) -> None:
        outcome = await self._reload()
        if isinstance(outcome, Problem):
            log.error("the models are not loaded anew: %s", outcome)

    async def _ask_objects(self, workers: Collection[Worker], topic: str) -> dict[Worker, Any]:
        """The answers of those that have not ended: whoever takes their place loads what is there then."""
        answers = await self._ask(workers, topic)
        said = {worker: pickle.loads(each) for worker, each in zip(workers, answers, strict=True)}  # noqa: S301 - from a worker
        return {worker: each for worker, each in said.items() if not isinstance(each, WorkerGone)}

    async def _ping_all(self) -> None:
        while True:
            await asyncio.sleep(self._settings.worker_timeout / PINGS)
            for worker in list(self._workers.values()):
                if not worker.started or worker.stopping:
                    continue
                worker.missed += 1
                if worker.missed == 1:
                    self._begin(self._ping(worker))
                elif worker.missed > PINGS:
                    log.error(
                        "worker %d did not answer within %g s (--worker-timeout), and is killed",
                        worker.index,
                        self._settings.worker_timeout,
                    )
                    worker.process.kill()

    async def _ping(self, worker: Worker) -> None:
        try:
            ailments = pickle.loads(await worker.ask("ping"))  # noqa: S301 - from a worker
        except WorkerGone:
            return
        worker.missed = 0
        if ailments and not worker.stopping:
            log.error("worker %d is replaced: %s", worker.index, ailments)
            self._begin(self._terminate(worker))

    async def _terminate(self, worker: Worker) -> None:
        """Tell a worker to finish what it has and to stop; kill it when it takes too long."""
        worker.stopping = True
        worker.process.terminate()
        await asyncio.sleep(self._settings.drain_seconds + SLACK)
        if self._workers.get(worker.index) is worker:
            log.error("worker %d does not stop, and is killed", worker.index)
            worker.process.kill()

    def _stop(self, number: int) -> None:
        if self._stopping:
            for worker in self._workers.values():
                log.error("worker %d is killed", worker.index)
                worker.process.kill()
            return
        self._stopping = True
        self._code = 130 if number == signal.SIGINT else 0
        log.info("graceful shutdown: %d workers finish the requests in progress", len(self._workers))
        # Or who connects now would wait for an answer that nobody gives.
        for listener in self._listeners:
            listener.close()
        for worker in self._workers.values():
            self._begin(self._terminate(worker))
        self._end_if_alone()

    def _ended(self, worker: Worker) -> None:
        worker.process.join()
        worker.close(WorkerGone(f"worker {worker.index} ended"))
        del self._workers[worker.index]
        code = worker.process.exitcode
        if self._stopping:
            self._end_if_alone()
        elif not self._up:
            self._give_up(
                StartupError(f"worker {worker.index} ended with exit code {code}; the log says why")
            )
        else:
            settled = self._loop.time() - worker.begun >= SETTLED
            pause = 0.0 if settled else self._pauses[worker.index]
            self._pauses[worker.index] = min(max(PAUSE, 2 * pause), LONGEST_PAUSE)
            when = f"in {pause:g} s" if pause else "at once"
            log.error("worker %d ended with exit code %s; another starts %s", worker.index, code, when)
            self._loop.call_later(pause, self._start, worker.index)

    def _end_if_alone(self) -> None:
        if not self._workers and not self._outcome.done():
            self._outcome.set_result(self._code)

    def _give_up(self, error: StartupError) -> None:
        if not self._outcome.done():
            self._outcome.set_exception(error)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the supervisor failed to do something", exc_info=error)


def disagreement(said: dict[int, Any]) -> Problem | None:
    """Why the workers cannot swap: one could not look, or they would not all serve the same.

    What one keeps though its folder is bad now, another that was started since may not have: that is alike.
    """
    for index, each in said.items():
        if isinstance(each, Problem):
            return each
        if not isinstance(each, Reload):
            return ReloadFailed(f"worker {index} could not prepare: {each}; nothing was changed")
    if not said:
        return ReloadFailed("no worker answers now; try again in a second")
    first, *others = said.items()
    for index, each in others:
        if each.good != first[1].good:
            names = sorted(dict(set(each.good.items()) ^ set(first[1].good.items())))
            detail = f"workers {first[0]} and {index} do not agree on {', '.join(names)}; nothing was changed"
            return ReloadFailed(detail, models=names)
    return None
