"""The workers that answer at one address, as each of them sees them.

A call meets any one of them. What concerns all (to load models anew, to be measured, to be well) that one
asks of every worker, itself among them, by a pipe to their supervisor (``service.supervisor``), who hands
questions round and answers back. A worker alone asks only itself.
"""

import asyncio
import itertools
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

log = logging.getLogger(__name__)

Handler = Callable[[], Any]


class Started(NamedTuple):
    """A worker to the supervisor: it answers calls."""


class Failed(NamedTuple):
    """A worker to the supervisor: it cannot start."""

    reason: str


class Question(NamedTuple):
    """A worker to the supervisor, and the supervisor to every worker."""

    number: int
    topic: str


class Answer(NamedTuple):
    """A worker to the supervisor: what it has to say, or the exception that was raised."""

    number: int
    said: Any


class Answers(NamedTuple):
    """The supervisor to the worker that asked: what the others said."""

    number: int
    said: Sequence[Any]


class Crew:
    """One worker's way to all. Safe to use from several threads.

    Without a ``pipe`` it is alone. ``gone`` is called when the supervisor is gone.
    """

    gone: Callable[[], None]

    def __init__(self, pipe: Connection | None = None, index: int = 0) -> None:
        self.index, self.is_alone = index, pipe is None
        self.gone = lambda: None
        self._pipe = pipe
        self._handlers: dict[str, Handler] = {}
        self._numbers = itertools.count()
        self._asked: dict[int, Future[Sequence[Any]]] = {}
        self._sending = threading.Lock()
        if pipe is not None:
            threading.Thread(target=self._listen, args=[pipe], name="crew", daemon=True).start()

    def on(self, topic: str, handler: Handler) -> None:
        """Do this, in a thread of its own, when a worker asks; what it returns is the answer."""
        self._handlers[topic] = handler

    async def ask(self, topic: str, seconds: float | None = None) -> list[Any]:
        """What every worker answers, this one first; an exception in the place of an answer, from another.

        Raises what this one's handler raises, and TimeoutError after so many ``seconds``.
        """
        own = asyncio.to_thread(self._handlers[topic])
        if self._pipe is None:
            return [await asyncio.wait_for(own, seconds)]
        question = Question(next(self._numbers), topic)
        others: Future[Sequence[Any]] = Future()
        self._asked[question.number] = others
        self.tell(question)
        try:
            answers = asyncio.gather(own, asyncio.wrap_future(others))
            first, rest = await asyncio.wait_for(answers, seconds)
        finally:
            del self._asked[question.number]
        return [first, *rest]

    def tell(self, message: Started | Failed | Question | Answer) -> None:
        """Tell the supervisor, if there is one."""
        if self._pipe is not None:
            with self._sending:
                self._pipe.send(message)

    def _listen(self, pipe: Connection) -> None:
        while True:
            try:
                message = pipe.recv()
            except (EOFError, OSError):
                self.gone()
                return
            if isinstance(message, Question):
                threading.Thread(target=self._answer, args=[message], daemon=True).start()
            elif (asked := self._asked.get(message.number)) is not None and not asked.cancelled():
                asked.set_result(message.said)

    def _answer(self, question: Question) -> None:
        try:
            said = self._handlers[question.topic]()
        except Exception as error:
            log.exception("worker %d failed to %s", self.index, question.topic)
            said = error
        self.tell(Answer(question.number, said))
