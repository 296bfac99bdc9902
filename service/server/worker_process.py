"""A worker as its supervisor sees it: a process, and a control channel that never blocks."""

import asyncio
import logging
from multiprocessing.process import BaseProcess
from typing import Any

from service.errors import TesseraError
from service.server.control_channel import Channel

log = logging.getLogger(__name__)

# Bytes that may wait for a worker to read them.
MOST_BUFFERED = 2**24


class WorkerGone(TesseraError):
    """A worker ended before it answered."""


class Worker(Channel):
    """One process and its control channel. Answers are pickled; WorkerGone for those that never come."""

    def __init__(self, index: int, process: BaseProcess, reloads: int) -> None:
        super().__init__()
        self.index, self.process = index, process
        self.begun = asyncio.get_running_loop().time()
        # Of the service, before this worker looked at the models folder.
        self.reloads = reloads
        self.started = self.stopping = False
        self.missed = 0

    @property
    def answers(self) -> bool:
        """Whether it is worth asking it something."""
        return self.started and not self.stopping and self.missed <= 1

    def tell(self, message: Any) -> None:
        """As ``Channel.tell``; a worker for which too much is buffered is killed."""
        super().tell(message)
        if self.writer is not None and self.writer.transport.get_write_buffer_size() > MOST_BUFFERED:
            log.error("worker %d does not read what it is sent, and is killed", self.index)
            self.process.kill()
