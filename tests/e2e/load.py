"""Callers that keep a service busy and check every answer."""

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import urlsplit

PATIENCE = 60.0


class Call(NamedTuple):
    """A request, and what its answer must be."""

    path: str
    body: bytes
    is_right: Callable[[bytes], bool]
    status: int = 200


class Load:
    """So many callers, one connection each, from entering to leaving.

    ``counts`` has how many answers were ``right`` or ``wrong``, how many calls were ``lost``, which is to say
    sent on an open connection and not answered, and how many answers had another status, by that status.
    A caller waits ``pause`` seconds after each answer, so that what goes on meanwhile has a CPU. It ends when
    the context ends, or when nothing listens any more.
    """

    def __init__(self, url: str, calls: list[Call], callers: int = 8, pause: float = 0.0) -> None:
        self.counts: Counter[str | int] = Counter()
        self._address = urlsplit(url)
        self._calls = calls
        self._pause = pause
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._call, args=[seed]) for seed in range(callers)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self.wait_for(len(self._threads))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def wait_for(self, answers: int) -> None:
        """Wait until so many more answers have come."""
        goal = self.counts.total() + answers
        deadline = time.monotonic() + PATIENCE
        while self.counts.total() < goal:
            assert time.monotonic() < deadline, self.counts
            time.sleep(0.01)

    def _call(self, seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 - no secret
        while not self._ending.is_set():
            connection = http.client.HTTPConnection(
                self._address.hostname or "", self._address.port, timeout=PATIENCE
            )
            try:
                connection.connect()
            except (ConnectionRefusedError, ConnectionResetError):
                # The listener closed before the connection was accepted; no request was sent.
                return
            with suppress(_Closed):
                self._talk(connection, chance)
            connection.close()

    def _talk(self, connection: http.client.HTTPConnection, chance: random.Random) -> None:
        while not self._ending.is_set():
            call = chance.choice(self._calls)
            try:
                connection.request("POST", call.path, call.body)
                answer = connection.getresponse()
                got = answer.read()
            except (OSError, http.client.HTTPException):
                self._count("lost")
                raise _Closed from None
            if answer.status == call.status:
                self._count("right" if call.is_right(got) else "wrong")
            else:
                self._count(answer.status)
            if answer.will_close:
                raise _Closed
            time.sleep(self._pause)

    def _count(self, what: str | int) -> None:
        with self._lock:
            self.counts[what] += 1


class _Closed(Exception):
    pass
