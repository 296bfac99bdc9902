"""One worker's control channel, with the supervisor's end in the test's hand."""

import asyncio
import pickle
import socket
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from service.errors import NotReady, Overloaded, Problem
from service.server.control_channel import ControlChannel, Query, Reply, Started, encoded, received

PATIENCE = 10.0


class Supervisor:
    """What the supervisor hears, and says."""

    def __init__(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def hear(self) -> Any:
        return await asyncio.wait_for(received(self._reader), PATIENCE)

    def say(self, message: Any) -> None:
        self._writer.write(encoded(message))

    def close(self) -> None:
        self._writer.close()


def run(test: Callable[[ControlChannel, Supervisor], Awaitable[None]], **handlers: Callable[[], Any]) -> None:
    """Run a test of a worker with others, which is number 3."""

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


def test_a_worker_alone_asks_itself() -> None:
    control = ControlChannel()
    control.handle("count", lambda: 1)
    control.send(Started())
    assert control.is_alone
    assert asyncio.run(control.broadcast("count")) == [1]
    assert asyncio.run(control.responsive_workers(PATIENCE)) == 1


def test_every_worker_is_asked() -> None:
    async def test(control: ControlChannel, supervisor: Supervisor) -> None:
        asked = asyncio.create_task(control.broadcast("name", PATIENCE))
        query = await supervisor.hear()
        assert query[1:] == ("name", PATIENCE)
        supervisor.say(Reply(query.number, [pickle.dumps(each) for each in ("own", "another")]))
        assert await asked == ["own", "another"]
        assert not control.is_alone

    run(test)


def test_questions_of_others_are_answered_in_a_thread_or_at_once() -> None:
    async def test(control: ControlChannel, supervisor: Supervisor) -> None:
        control.handle("at once", threading.get_ident, on_loop=True)
        for topic, at_once in (("thread", False), ("at once", True)):
            supervisor.say(Query(7, topic))
            reply = await supervisor.hear()
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
        supervisor.say(Query(7, "fail"))
        said = pickle.loads((await supervisor.hear()).content)  # noqa: S301 - just written
        assert type(said) is type(problem)
        assert said.document("/x") == problem.document("/x")
        assert said.headers == problem.headers

    run(test, fail=fail)
    assert "worker 3 failed to fail" in caplog.text


def test_a_timeout_or_a_client_that_leaves_deafens_nobody() -> None:
    """Answers to questions that nobody waits for any more, and a handler that takes too long."""
    release = threading.Event()

    async def test(control: ControlChannel, supervisor: Supervisor) -> None:
        left = asyncio.create_task(control.broadcast("name", PATIENCE))
        query = await supervisor.hear()
        left.cancel()
        for _ in range(2):
            supervisor.say(Reply(query.number, []))
        supervisor.say(Query(8, "slow", 0.05))
        reply = await supervisor.hear()
        assert isinstance(pickle.loads(reply.content), TimeoutError)  # noqa: S301 - just written
        supervisor.say(Query(9, "name"))
        assert await supervisor.hear() == Reply(9, pickle.dumps("own"))
        release.set()

    run(test, name=lambda: "own", slow=lambda: release.wait(PATIENCE))


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
