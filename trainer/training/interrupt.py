"""Ctrl-C and SIGTERM ask the training loop to stop after its step, so that it can leave a checkpoint."""

import signal
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any


class StopRequest(AbstractContextManager["StopRequest"]):
    """While entered, the first SIGINT or SIGTERM is noted in ``signal``; a second acts as it always does."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        while self._handlers:
            signal.signal(*self._handlers.popitem())
