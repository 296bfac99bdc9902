"""The service with workers that break at a signal: ``python -m tests.service.faulty`` takes the same flags.

SIGUSR1    a batcher of this worker died, as the worker sees it
SIGUSR2    this worker cannot prepare a reload any more
"""

import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

from service import __main__, worker
from service.api.app import App, create_app
from service.settings import Settings


def work(settings: Settings, listeners: Sequence[socket.socket], index: int, channel: socket.socket) -> None:
    def create(*given: Any) -> App:
        app = create_app(*given)
        context = app.context

        def prepare() -> None:
            raise RuntimeError("a test says so")

        signal.signal(signal.SIGUSR1, lambda *_: context.failed("a test says so"))
        signal.signal(signal.SIGUSR2, lambda *_: context.crew.on("prepare", prepare))
        return app

    with patch.object(worker, "create_app", create):
        worker.work(settings, listeners, index, channel)


if __name__ == "__main__":
    with patch.object(__main__, "work", work):
        sys.exit(__main__.main())
