"""A worker in the supervisor: its process, and a control channel that never blocks."""

import asyncio
import logging
from multiprocessing.process import BaseProcess
from typing import Any

from service.errors import TesseraError
from service.models.reload import Reload
from service.server.control_channel import Channel

log = logging.getLogger(__name__)

# Bytes that may be buffered for a worker.
MOST_BUFFERED = 2**24


class WorkerGone(TesseraError):
    """A worker exited before it replied."""


class Worker(Channel):
    """One process and its control channel. Replies are pickled.

    A query of a worker that exited raises WorkerGone.
    """

    def __init__(self, index: int, process: BaseProcess, reloads: int) -> None:
        super().__init__()
        self.index, self.process = index, process
        self.begun = asyncio.get_running_loop().time()
        # How many reloads there were before this worker read the models folder.
        self.reloads = reloads
        # What this worker's last load of the models folder did.
        self.outcome = Reload()
        self.started = self.stopping = False
        self.missed = 0

    @property
    def is_responsive(self) -> bool:
        """Whether it has started, is not shutting down, and replied to all pings but the last."""
        return self.started and not self.stopping and self.missed <= 1

    def send(self, message: Any) -> None:
        """As ``Channel.send``; a worker with too much in its buffer is killed."""
        super().send(message)
        if self.writer is not None and self.writer.transport.get_write_buffer_size() > MOST_BUFFERED:
            log.error("worker %d does not read its messages, and is killed", self.index)
            self.process.kill()
