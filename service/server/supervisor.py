"""Several workers at one address: started, monitored, replaced, queried together, and shut down.

All workers share one listening socket, which outlives each of them: while one worker is blocked or being
replaced, the others accept connections. uvicorn's own ``Multiprocess`` is not used: it pings a thread of the
worker instead of its event loop, waits for each worker in turn, and cannot broadcast.

A worker is replaced
- when it exits: at once, or after a delay if it exited before within a minute;
- when its event loop does not reply to a ping within ``worker_timeout`` seconds: it is killed;
- when it replies that something is broken (``Context.fatal_errors``): it is shut down gracefully.

The supervisor is one event loop that never waits for a worker: what a worker does not read is buffered, and a
worker with too much in its buffer is killed.
"""

import asyncio
import logging
import multiprocessing
import pickle
import signal
import socket
from asyncio import Future, Task
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from service.errors import Problem, StartupError
from service.models.reload import Reload, disagreement, report
from service.server.control_channel import Failed, Query, Reply, Started
from service.server.http import GRACEFUL
from service.server.worker_process import Worker, WorkerGone
from service.settings import Settings

log = logging.getLogger(__name__)

# Seconds between two starts of a worker that keeps exiting: the first and the longest delay. A worker that
# has run for SETTLED seconds is restarted at once.
DELAY, LONGEST_DELAY, SETTLED = 1.0, 30.0, 60.0
# Pings within the timeout of a worker: the timeout is counted in pings, so that a supervisor that was
# suspended itself does not kill its workers.
PINGS = 8
# Seconds that the graceful shutdown of a worker may take beyond ``drain_seconds``.
SLACK = 5.0

Work = Callable[[Settings, Sequence[socket.socket], int, socket.socket], None]


class Supervisor:
    """Runs ``work`` in ``settings.workers`` processes, which all listen on the same sockets.

    ``ready`` is called once, when all of them have started, with the message of the last.
    """

    def __init__(
        self,
        work: Work,
        settings: Settings,
        listeners: Sequence[socket.socket],
        ready: Callable[[Started], None],
    ) -> None:
        self._work, self._settings, self._listeners, self._ready = work, settings, listeners, ready
        self._spawn = multiprocessing.get_context("spawn")
        self._workers: dict[int, Worker] = {}
        self._delays = dict.fromkeys(range(settings.workers), 0.0)
        self._tasks: set[Task[None]] = set()
        self._reloads = self._code = 0
        self._up = self._stopping = False

    def run(self) -> int:
        """Run until a signal, or until a worker cannot start at first: the exit code, 0 or 130.

        Raises StartupError with that worker's reason.
        """
        return asyncio.run(self._run())

    async def _run(self) -> int:
        self._loop = asyncio.get_running_loop()
        self._reloading = asyncio.Lock()
        self._outcome: Future[int] = self._loop.create_future()
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.add_signal_handler(number, self._stop, number)
        self._loop.add_signal_handler(signal.SIGHUP, lambda: self._create_task(self._reload_quietly()))
        try:
            for index in range(self._settings.workers):
                self._start(index)
            self._create_task(self._ping_all())
            return await self._outcome
        finally:
            for worker in self._workers.values():
                worker.process.kill()

    def _start(self, index: int) -> None:
        if self._stopping:
            return
        with ExitStack() as opened:
            try:
                ours, theirs = map(opened.enter_context, socket.socketpair())
                args = (self._settings, self._listeners, index, theirs)
                process = self._spawn.Process(target=self._work, args=args, name=f"tessera-worker-{index}")
                process.start()
            except OSError as error:  # too many processes or open files, or no memory
                why = f"cannot start: {error.strerror}"
                if not self._up:
                    raise StartupError(f"worker {index} {why}") from error
                self._start_again(index, why)
                return
            opened.pop_all()
        theirs.close()
        worker = self._workers[index] = Worker(index, process, self._reloads)
        self._create_task(self._supervise(worker, ours))

    async def _supervise(self, worker: Worker, channel: socket.socket) -> None:
        """Receive the messages of a worker until it exits, and then start another."""
        ended: Future[None] = self._loop.create_future()

        def end() -> None:
            self._loop.remove_reader(worker.process.sentinel)
            ended.set_result(None)

        self._loop.add_reader(worker.process.sentinel, end)
        await worker.open(channel)
        listening = self._loop.create_task(worker.listen(partial(self._on_message, worker)))
        await asyncio.wait([listening, ended], return_when=asyncio.FIRST_COMPLETED)
        # Its last message, such as why it cannot start, may come just after its exit.
        await asyncio.wait([listening, ended], timeout=SLACK)
        if not ended.done():
            worker.process.kill()
            await ended
        listening.cancel()
        self._on_exit(worker)

    def _on_message(self, worker: Worker, message: Any) -> None:
        match message:
            case Started():
                worker.started, worker.outcome = True, message.outcome
                if worker.reloads != self._reloads:
                    # It may have read the folder before the reload that it missed.
                    self._create_task(self._reload_quietly())
                if not self._up and all(other.started for other in self._workers.values()):
                    self._up = True
                    self._ready(message)
                elif self._up:
                    log.info("worker %d is started again", worker.index)
                self._compare(worker)
            case Failed(reason) if not self._up:
                self._fail(StartupError(reason))
            case Failed(reason):
                log.error("worker %d cannot start: %s", worker.index, reason)
            case Query(number, topic, seconds):
                self._create_task(self._reply(worker, number, topic, seconds))

    def _compare(self, worker: Worker) -> None:
        """Log an error if a worker has loaded other models than the rest: the folder may have changed."""
        outcomes = {each.index: each.outcome for each in self._workers.values() if each.started}
        if (problem := disagreement(outcomes)) is not None:
            names = ", ".join(problem.members["models"])
            why = "".join(f"; {each.name} is refused: {each.reason}" for each in worker.outcome.refused)
            log.error("worker %d does not agree with the others on %s%s; reload", worker.index, names, why)

    async def _reply(self, sender: Worker, number: int, topic: str, seconds: float | None) -> None:
        if topic == "reload":
            results = [pickle.dumps(await self._reload())]
        elif topic == "workers":
            results = [pickle.dumps(sum(worker.is_responsive for worker in self._workers.values()))]
        else:
            others = [each for each in self._workers.values() if each is not sender and each.is_responsive]
            results = await self._broadcast([sender, *others], topic, seconds)
        sender.send(Reply(number, results))

    async def _broadcast(
        self, workers: Collection[Worker], topic: str, seconds: float | None = None
    ) -> list[bytes]:
        """The pickled result of each worker; a pickled WorkerGone or TimeoutError where there is none."""

        async def result(reply: Future[bytes]) -> bytes:
            try:
                return await asyncio.wait_for(reply, seconds)
            except (WorkerGone, TimeoutError) as error:
                return pickle.dumps(error)

        return await asyncio.gather(*[result(worker.query(topic, seconds)) for worker in workers])

    async def _reload(self) -> Reload | Problem:
        """Reload the models in every worker: all prepare, then all swap or none; one reload at a time."""
        async with self._reloading:
            workers = [worker for worker in self._workers.values() if worker.started and not worker.stopping]
            prepared = await self._results(workers, "prepare")
            problem = disagreement({worker.index: each for worker, each in prepared.items()})
            if problem is not None:
                await self._broadcast(prepared, "abandon")
                return problem
            self._reloads += 1
            for worker, done in (await self._results(prepared, "commit")).items():
                worker.reloads, worker.outcome = self._reloads, prepared[worker]
                if isinstance(done, Exception):
                    log.error("worker %d could not swap its models, and is replaced", worker.index)
                    worker.process.kill()
            outcome: Reload = next(iter(prepared.values()))
            report(outcome, self._settings.models, self._settings.default_model)
            return outcome

    async def _reload_quietly(self) -> None:
        outcome = await self._reload()
        if isinstance(outcome, Problem):
            log.error("the models were not reloaded: %s", outcome)

    async def _results(self, workers: Collection[Worker], topic: str) -> dict[Worker, Any]:
        """The results of the workers that have not exited: their successors load what is there then."""
        replies = await self._broadcast(workers, topic)
        results = {worker: pickle.loads(each) for worker, each in zip(workers, replies, strict=True)}  # noqa: S301 - from a worker
        return {worker: each for worker, each in results.items() if not isinstance(each, WorkerGone)}

    async def _ping_all(self) -> None:
        seconds = self._settings.worker_timeout
        late = "worker %d did not reply within %g s (--worker-timeout), and is killed"
        while True:
            await asyncio.sleep(seconds / PINGS)
            for worker in list(self._workers.values()):
                if not worker.started or worker.stopping:
                    continue
                worker.missed += 1
                if worker.missed == 1:
                    self._create_task(self._ping(worker))
                elif worker.missed > PINGS:
                    log.error(late, worker.index, seconds)
                    worker.process.kill()

    async def _ping(self, worker: Worker) -> None:
        try:
            fatal_errors = pickle.loads(await worker.query("ping"))  # noqa: S301 - from a worker
        except WorkerGone:
            return
        worker.missed = 0
        if fatal_errors and not worker.stopping:
            log.error("worker %d is replaced: %s", worker.index, fatal_errors)
            self._create_task(self._terminate(worker))

    async def _terminate(self, worker: Worker) -> None:
        """Shut a worker down gracefully; kill it after ``drain_seconds`` and some slack."""
        worker.stopping = True
        worker.process.terminate()
        await asyncio.sleep(self._settings.drain_seconds + SLACK)
        if self._workers.get(worker.index) is worker:
            log.error("worker %d did not shut down in time (--drain-seconds), and is killed", worker.index)
            worker.process.kill()

    def _stop(self, number: int) -> None:
        if self._stopping:
            for worker in self._workers.values():
                log.error("worker %d is killed", worker.index)
                worker.process.kill()
            return
        self._stopping = True
        self._code = 130 if number == signal.SIGINT else 0
        log.info(GRACEFUL, self._settings.drain_seconds)
        # A client that connects now would never get a response.
        for listener in self._listeners:
            listener.close()
        for worker in self._workers.values():
            self._create_task(self._terminate(worker))
        self._finish_if_empty()

    def _on_exit(self, worker: Worker) -> None:
        worker.process.join()
        worker.close(WorkerGone(f"worker {worker.index} ended"))
        del self._workers[worker.index]
        code = worker.process.exitcode
        if self._stopping:
            self._finish_if_empty()
        elif not self._up:
            self._fail(StartupError(f"worker {worker.index} ended with exit code {code}; the log says why"))
        else:
            if self._loop.time() - worker.begun >= SETTLED:
                self._delays[worker.index] = 0.0
            self._start_again(worker.index, f"ended with exit code {code}")

    def _start_again(self, index: int, why: str) -> None:
        delay = self._delays[index]
        self._delays[index] = min(max(DELAY, 2 * delay), LONGEST_DELAY)
        log.error("worker %d %s; another starts %s", index, why, f"in {delay:g} s" if delay else "at once")
        self._loop.call_later(delay, self._start, index)

    def _finish_if_empty(self) -> None:
        if not self._workers and not self._outcome.done():
            self._outcome.set_result(self._code)

    def _fail(self, error: StartupError) -> None:
        if not self._outcome.done():
            self._outcome.set_exception(error)

    def _create_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a task of the supervisor failed", exc_info=error)
