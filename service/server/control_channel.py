"""The control channel of a worker: messages to and from its supervisor, and questions to all workers.

A request meets any one of the workers. What concerns all of them (a reload, the metrics, their health) that
worker asks of all, through the supervisor (``service.server.supervisor``). A worker without a supervisor asks
only itself.

The channel belongs to the worker's event loop, so that a worker whose event loop is stuck does not answer,
and nothing that happens to one question can stop the next from being heard. Messages are pickles with their
length before them; both ends are processes of the service.
"""

import asyncio
import itertools
import logging
import pickle
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable, Coroutine
from contextlib import closing, suppress
from typing import Any, NamedTuple

log = logging.getLogger(__name__)

Handler = Callable[[], Any]

# Seconds that a worker waits for the supervisor beyond the seconds that the supervisor waits for the others.
_SLACK = 2.0
_LENGTH_BYTES = 8


class Started(NamedTuple):
    """A worker to the supervisor: it answers requests."""


class Failed(NamedTuple):
    """A worker to the supervisor: it cannot start."""

    reason: str


class Question(NamedTuple):
    """A worker to the supervisor, and the supervisor to every worker; ``seconds`` None: no timeout."""

    number: int
    topic: str
    seconds: float | None = None


class Answer(NamedTuple):
    """To who asked: a worker's answer, pickled; of the supervisor those of all, the asker's first."""

    number: int
    said: Any


def encoded(message: Any) -> bytes:
    """A message as it goes through a channel."""
    content = pickle.dumps(message)
    return len(content).to_bytes(_LENGTH_BYTES, "big") + content


async def received(reader: StreamReader) -> Any:
    """The next message of a channel. Raises EOFError or OSError when there is none any more."""
    length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
    return pickle.loads(await reader.readexactly(length))  # noqa: S301 - from a process of the service


class Channel:
    """One end of a control channel, for one event loop: messages, and questions with their answers."""

    def __init__(self) -> None:
        self.writer: StreamWriter | None = None
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count()

    async def open(self, end: socket.socket) -> None:
        """Take one end of a pair of sockets."""
        self._reader, self.writer = await asyncio.open_unix_connection(sock=end)

    async def listen(self, heard: Callable[[Any], None]) -> None:
        """Hear what comes until the other end is closed; an answer goes to who asked."""
        assert self.writer is not None  # noqa: S101 - it is open
        with closing(self.writer), suppress(EOFError, OSError):
            while True:
                message = await received(self._reader)
                if not isinstance(message, Answer):
                    heard(message)
                elif (asked := self._asked.get(message.number)) and not asked.done():
                    asked.set_result(message.said)

    def ask(self, topic: str, seconds: float | None = None) -> asyncio.Future[Any]:
        """What is answered, some time."""
        question = Question(next(self._numbers), topic, seconds)
        asked = self._asked[question.number] = asyncio.get_running_loop().create_future()
        asked.add_done_callback(lambda _: self._asked.pop(question.number))
        self.tell(question)
        return asked

    def tell(self, message: Any) -> None:
        """Send a message, without waiting until it is read."""
        if self.writer is not None and not self.writer.is_closing():
            self.writer.write(encoded(message))

    def close(self, error: Exception) -> None:
        """Nothing comes any more: who waits for an answer gets the error."""
        for asked in list(self._asked.values()):
            if not asked.done():
                asked.set_exception(error)
        if self.writer is not None:
            self.writer.close()


class Crew:
    """All workers, as one of them sees them; without a ``channel`` it is alone.

    ``gone`` is called when the supervisor is gone. Everything but ``on`` and the ``tell`` before ``connect``
    is for the event loop alone.
    """

    gone: Callable[[], None]

    def __init__(self, channel: socket.socket | None = None, index: int = 0) -> None:
        self.index, self.is_alone = index, channel is None
        self.gone = lambda: None
        self._end, self._channel = channel, Channel()
        self._handlers: dict[str, tuple[Handler, bool]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def on(self, topic: str, handler: Handler, *, at_once: bool = False) -> None:
        """Do this when a worker asks, in a thread or ``at_once`` in the event loop; it returns the answer."""
        self._handlers[topic] = handler, at_once

    async def connect(self) -> None:
        """Answer questions from now on, in the running event loop."""
        if self._end is not None:
            await self._channel.open(self._end)
            self._begin(self._listen())

    async def ask(self, topic: str, seconds: float | None = None) -> list[Any]:
        """The answer of every worker, this one first; an exception in place of an answer that failed.

        Who does not answer within so many ``seconds`` is a TimeoutError in the list. Raises TimeoutError if
        the supervisor itself does not answer.
        """
        if self.is_alone:
            return [await self._run(topic, lambda said: said, seconds)]
        answers = self._channel.ask(topic, seconds)
        said = await asyncio.wait_for(answers, seconds and seconds + _SLACK)
        return await asyncio.to_thread(lambda: [pickle.loads(each) for each in said])  # noqa: S301 - as above

    async def answering(self, seconds: float) -> int:
        """How many workers answer, this one among them. Raises as ``ask``."""
        if self.is_alone:
            return 1
        (number,) = await self.ask("workers", seconds)
        return int(number)

    def tell(self, message: Started | Failed) -> None:
        """Tell the supervisor, if there is one."""
        if self._channel.writer is None and self._end is not None:
            self._end.sendall(encoded(message))
        else:
            self._channel.tell(message)

    async def _listen(self) -> None:
        await self._channel.listen(lambda question: self._begin(self._reply(question)))
        self.gone()

    async def _reply(self, question: Question) -> None:
        said = await self._run(question.topic, pickle.dumps, question.seconds)
        if isinstance(said, Exception):
            said = pickle.dumps(said)
        self._channel.tell(Answer(question.number, said))

    async def _run(self, topic: str, form: Callable[[Any], Any], seconds: float | None) -> Any:
        """What the handler of a topic returns, in a ``form``, or the exception that it raised."""
        handler, at_once = self._handlers[topic]
        try:
            if at_once:
                return form(handler())
            return await asyncio.wait_for(asyncio.to_thread(lambda: form(handler())), seconds)
        except TimeoutError as error:
            return error
        except Exception as error:
            log.exception("worker %d failed to %s", self.index, topic)
            return error

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
