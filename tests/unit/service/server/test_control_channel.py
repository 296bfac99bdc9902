"""The control channel of a worker; the test plays the supervisor."""

import asyncio
import pickle
import socket
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from service.errors import NotReady, Overloaded, Problem
from service.models.reload import Reload
from service.server.control_channel import ControlChannel, Query, Reply, Started, encoded, received

PATIENCE = 10.0


class Supervisor:
    """The supervisor's end of the channel."""

    def __init__(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def receive(self) -> Any:
        return await asyncio.wait_for(received(self._reader), PATIENCE)

    def send(self, message: Any) -> None:
        self._writer.write(encoded(message))

    def close(self) -> None:
        self._writer.close()


def run(test: Callable[[ControlChannel, Supervisor], Awaitable[None]], **handlers: Callable[[], Any]) -> None:
    """Run a test of worker 3 of several."""

    async def main() -> None:
        ours, theirs = socket.socketpair()
        control = ControlChannel(theirs, 3)
        for topic, handler in handlers.items():
            control.handle(topic, handler)
        await control.connect()
        supervisor = Supervisor(*await asyncio.open_unix_connection(sock=ours))
        try:
            await test(control, supervisor)
        finally:
            supervisor.close()

    asyncio.run(main())


def test_a_worker_without_a_supervisor_queries_itself() -> None:
    control = ControlChannel()
    control.handle("count", lambda: 1)
    control.send(Started(Reload(), "cpu: a test asks for it"))
    assert control.is_alone
    assert asyncio.run(control.broadcast("count")) == [1]
    assert asyncio.run(control.responsive_workers(PATIENCE)) == 1


def test_a_broadcast_has_the_result_of_every_worker() -> None:
    async def test(control: ControlChannel, supervisor: Supervisor) -> None:
        asked = asyncio.create_task(control.broadcast("name", PATIENCE))
        query = await supervisor.receive()
        assert query[1:] == ("name", PATIENCE)
        supervisor.send(Reply(query.number, [pickle.dumps(each) for each in ("own", "another")]))
        assert await asked == ["own", "another"]
        assert not control.is_alone

    run(test)


def test_queries_are_handled_in_a_thread_or_on_the_event_loop() -> None:
    async def test(control: ControlChannel, supervisor: Supervisor) -> None:
        control.handle("at once", threading.get_ident, on_loop=True)
        for topic, at_once in (("thread", False), ("at once", True)):
            supervisor.send(Query(7, topic))
            reply = await supervisor.receive()
            assert isinstance(reply, Reply)
            assert reply.number == 7
            assert (pickle.loads(reply.content) == threading.get_ident()) is at_once  # noqa: S301 - just written

    run(test, thread=threading.get_ident)


@pytest.mark.parametrize(
    "problem", [NotReady("not yet", given=1), Overloaded("full", retry_after=3, given=2)]
)
def test_a_problem_is_unchanged_by_the_channel(problem: Problem, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise problem

    async def test(_: ControlChannel, supervisor: Supervisor) -> None:
        supervisor.send(Query(7, "fail"))
        said = pickle.loads((await supervisor.receive()).content)  # noqa: S301 - just written
        assert type(said) is type(problem)
        assert said.document("/x") == problem.document("/x")
        assert said.headers == problem.headers

    run(test, fail=fail)
    assert "worker 3 failed to fail" in caplog.text


def test_a_query_that_times_out_or_is_cancelled_does_not_stop_the_next() -> None:
    """Replies to a query that was cancelled, and a handler that takes too long."""
    release = threading.Event()

    async def test(control: ControlChannel, supervisor: Supervisor) -> None:
        left = asyncio.create_task(control.broadcast("name", PATIENCE))
        query = await supervisor.receive()
        left.cancel()
        for _ in range(2):
            supervisor.send(Reply(query.number, []))
        supervisor.send(Query(8, "slow", 0.05))
        reply = await supervisor.receive()
        assert isinstance(pickle.loads(reply.content), TimeoutError)  # noqa: S301 - just written
        supervisor.send(Query(9, "name"))
        assert await supervisor.receive() == Reply(9, pickle.dumps("own"))
        release.set()

    run(test, name=lambda: "own", slow=lambda: release.wait(PATIENCE))


def test_a_query_that_is_cancelled_before_its_thread_is_free_never_runs() -> None:
    runs, gate = [], threading.Event()

    def load() -> None:
        runs.append(True)
        assert gate.wait(PATIENCE)

    async def main() -> None:
        control = ControlChannel()
        control.handle("reload", load, executor=ThreadPoolExecutor(1))
        control.handle("metrics", lambda: "metrics")
        queries = [asyncio.create_task(control.broadcast("reload")) for _ in range(40)]
        await asyncio.sleep(0)
        for query in queries:
            query.cancel()
        assert await control.broadcast("metrics", PATIENCE) == ["metrics"]
        gate.set()
        await control.broadcast("reload")

    asyncio.run(main())
    assert len(runs) == 2


def test_a_silent_supervisor_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.server.control_channel._SLACK", 0.01)

    async def test(control: ControlChannel, _: Supervisor) -> None:
        with pytest.raises(TimeoutError):
            await control.broadcast("name", 0.05)

    run(test)


def test_a_worker_knows_when_its_supervisor_is_gone() -> None:
    async def test(control: ControlChannel, supervisor: Supervisor) -> None:
        gone = asyncio.Event()
        control.on_disconnect = gone.set
        supervisor.close()
        await asyncio.wait_for(gone.wait(), PATIENCE)

    run(test)
