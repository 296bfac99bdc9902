"""A worker as its supervisor sees it: a process, and a control channel that never blocks."""

import asyncio
import itertools
import logging
import socket
from asyncio import Future, StreamReader, StreamWriter
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.process import BaseProcess
from typing import Any

from service.crew import Answer, Answers, Question, encoded, received
from service.errors import TesseraError

log = logging.getLogger(__name__)

# Bytes that may wait for a worker to read them.
MOST_BUFFERED = 2**24


class WorkerGone(TesseraError):
    """A worker ended before it answered."""


class Worker:
    """One process and its control channel."""

    def __init__(self, index: int, process: BaseProcess, reloads: int) -> None:
        self.index, self.process = index, process
        self.begun = asyncio.get_running_loop().time()
        # Of the service, before this worker looked at the models folder.
        self.reloads = reloads
        self.started = self.stopping = False
        self.missed = 0
        self._writer: StreamWriter | None = None
        self._asked: dict[int, Future[bytes]] = {}
        self._numbers = itertools.count()

    @property
    def answers(self) -> bool:
        """Whether it is worth asking it something."""
        return self.started and not self.stopping and self.missed <= 1

    @property
    def is_connected(self) -> bool:
        """Whether messages can be sent to it."""
        return self._writer is not None

    async def listen(self, channel: socket.socket, heard: Callable[["Worker", Any], None]) -> None:
        """Hear what it says until it closes the channel."""
        reader: StreamReader
        reader, self._writer = await asyncio.open_unix_connection(sock=channel)
        with suppress(EOFError, OSError):
            while True:
                message = await received(reader)
                if isinstance(message, Answer):
                    if (asked := self._asked.pop(message.number, None)) and not asked.done():
                        asked.set_result(message.said)
                else:
                    heard(self, message)
        self._writer.close()

    def ask(self, topic: str, seconds: float | None = None) -> Future[bytes]:
        """Its answer, pickled; WorkerGone if it ends before."""
        number = next(self._numbers)
        asked = self._asked[number] = asyncio.get_running_loop().create_future()
        self.tell(Question(number, topic, seconds))
        return asked

    def tell(self, message: Question | Answers) -> None:
        """Send a message, without waiting until it is read."""
        if self._writer is None or self._writer.is_closing():
            return
        self._writer.write(encoded(message))
        if self._writer.transport.get_write_buffer_size() > MOST_BUFFERED:
            log.error("worker %d does not read what it is sent, and is killed", self.index)
            self.process.kill()

    def close(self) -> None:
        """Nothing is heard of it any more: whoever waits for an answer gets none."""
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(WorkerGone(f"worker {self.index} ended"))
        if self._writer is not None:
            self._writer.close()
