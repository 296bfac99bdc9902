"""The control channel of a worker: messages between it and its supervisor, and broadcasts to all workers.

A request reaches one worker. What concerns all workers (a reload, the metrics, how many respond) that worker
broadcasts through the supervisor (``service.server.supervisor``). A worker without a supervisor queries only
itself.

The channel belongs to the worker's event loop, so a worker whose event loop is blocked does not reply. A
query that fails does not stop the next one. Messages are pickles with their length in front; both ends are
processes of the service.
"""

import asyncio
import itertools
import logging
import pickle
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextlib import closing, suppress
from typing import Any, NamedTuple

from service.models.reload import Reload

log = logging.getLogger(__name__)

Handler = Callable[[], Any]

# Seconds that a worker waits for the supervisor beyond the seconds that the supervisor waits for the workers.
_SLACK = 2.0
_LENGTH_BYTES = 8


class Started(NamedTuple):
    """Worker to supervisor: the worker accepts requests.

    ``outcome``: which models it has loaded. ``provider``: where they run, and why.
    """

    outcome: Reload
    provider: str


class Failed(NamedTuple):
    """Worker to supervisor: the worker cannot start."""

    reason: str


class Query(NamedTuple):
    """Worker to supervisor, or supervisor to worker; with ``seconds`` None there is no timeout."""

    number: int
    topic: str
    seconds: float | None = None


class Reply(NamedTuple):
    """To the sender of the query of this number. ``content``: a worker's pickled result.

    The supervisor's reply is a list of those, with that of the querying worker first.
    """

    number: int
    content: Any


def encoded(message: Any) -> bytes:
    """The bytes of a message on a channel."""
    content = pickle.dumps(message)
    return len(content).to_bytes(_LENGTH_BYTES, "big") + content


async def received(reader: StreamReader) -> Any:
    """The next message of a channel. Raises EOFError or OSError after the last."""
    length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
    return pickle.loads(await reader.readexactly(length))  # noqa: S301 - from a process of the service


class Channel:
    """One end of a control channel, for one event loop: messages, and queries with their replies."""

    def __init__(self) -> None:
        self.writer: StreamWriter | None = None
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count()

    async def open(self, end: socket.socket) -> None:
        """Use one end of a pair of sockets."""
        self._reader, self.writer = await asyncio.open_unix_connection(sock=end)

    async def listen(self, on_message: Callable[[Any], None]) -> None:
        """Receive until the other end is closed: a reply resolves its query, ``on_message`` gets the rest."""
        assert self.writer is not None  # noqa: S101 - it is open
        with closing(self.writer), suppress(EOFError, OSError):
            while True:
                message = await received(self._reader)
                if not isinstance(message, Reply):
                    on_message(message)
                elif (pending := self._pending.get(message.number)) and not pending.done():
                    pending.set_result(message.content)

    def query(self, topic: str, seconds: float | None = None) -> asyncio.Future[Any]:
        """Send a query; the future is the content of the reply."""
        query = Query(next(self._numbers), topic, seconds)
        pending = self._pending[query.number] = asyncio.get_running_loop().create_future()
        pending.add_done_callback(lambda _: self._pending.pop(query.number))
        self.send(query)
        return pending

    def send(self, message: Any) -> None:
        """Send a message, without waiting until the other end has read it."""
        if self.writer is not None and not self.writer.is_closing():
            self.writer.write(encoded(message))

    def close(self, error: Exception) -> None:
        """Close the channel: every pending query raises the error."""
        for pending in list(self._pending.values()):
            if not pending.done():
                pending.set_exception(error)
        if self.writer is not None:
            self.writer.close()


class ControlChannel:
    """A worker's end of its control channel; without an ``end`` the worker is alone.

    ``on_disconnect`` is called when the supervisor is gone. Everything but ``handle`` and a ``send`` before
    ``connect`` is for the event loop alone.
    """

    on_disconnect: Callable[[], None]

    def __init__(self, end: socket.socket | None = None, index: int = 0) -> None:
        # A string for a replica on Ray Serve (service.cluster).
        self.index: int | str = index
        self.is_alone = end is None
        self.on_disconnect = lambda: None
        self._end, self._channel = end, Channel()
        self._handlers: dict[str, tuple[Handler, bool, Executor | None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def handle(
        self, topic: str, handler: Handler, *, on_loop: bool = False, executor: Executor | None = None
    ) -> None:
        """Reply to queries of a topic with what ``handler`` returns: ``on_loop``, or in a thread.

        The thread is of ``executor``, or else of the event loop's own executor, which all topics share.
        """
        self._handlers[topic] = handler, on_loop, executor

    async def connect(self) -> None:
        """Reply to queries from now on, in the running event loop."""
        if self._end is not None:
            await self._channel.open(self._end)
            self._create_task(self._listen())

    async def broadcast(self, topic: str, seconds: float | None = None) -> list[Any]:
        """The result of every worker, this one first; an exception is the result of a worker that failed.

        A worker that does not reply within ``seconds`` is a TimeoutError in the list. Raises TimeoutError if
        the supervisor itself does not reply.
        """
        if self.is_alone:
            return [await self._run(topic, lambda result: result, seconds)]
        replies = self._channel.query(topic, seconds)
        contents = await asyncio.wait_for(replies, seconds and seconds + _SLACK)
        return await asyncio.to_thread(lambda: [pickle.loads(each) for each in contents])  # noqa: S301 - as above

    async def responsive_workers(self, seconds: float) -> int:
        """How many workers reply, this one included. Raises as ``broadcast``."""
        if self.is_alone:
            return 1
        (number,) = await self.broadcast("workers", seconds)
        return int(number)

    def send(self, message: Started | Failed) -> None:
        """Send a message to the supervisor, if there is one."""
        if self._channel.writer is None and self._end is not None:
            self._end.sendall(encoded(message))
        else:
            self._channel.send(message)

    async def _listen(self) -> None:
        await self._channel.listen(lambda query: self._create_task(self._reply(query)))
        self.on_disconnect()

    async def _reply(self, query: Query) -> None:
        content = await self._run(query.topic, pickle.dumps, query.seconds)
        if isinstance(content, Exception):
            content = pickle.dumps(content)
        self._channel.send(Reply(query.number, content))

    async def _run(self, topic: str, form: Callable[[Any], Any], seconds: float | None) -> Any:
        """The result of the handler of a topic, in a ``form``, or the exception that it raised."""
        handler, on_loop, executor = self._handlers[topic]
        try:
            if on_loop:
                return form(handler())
            result = asyncio.get_running_loop().run_in_executor(executor, lambda: form(handler()))
            return await asyncio.wait_for(result, seconds)
        except TimeoutError as error:
            return error
        except Exception as error:
            log.exception("worker %s failed to %s", self.index, topic)
            return error

    def _create_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
