"""What runs the models: one batcher for samplers and one for all other operations.

A batch of a sampler may take seconds, and whoever encodes meanwhile does not wait for it. On a GPU one thread
runs everything: ONNX Runtime keeps a stream, library handles and captured graphs for each thread.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from service.batching.batcher import Batcher
from service.batching.entries import BatchReport, Entry, Limits
from service.contract.manifest import Role
from service.contract.runner import Arrays, Part, Results
from service.models.model import SAMPLE, Model
from service.models.pipeline import Number
from service.runtime.providers import Provider

# Seconds of the CPU; while a GPU works, the event loop can read the next requests.
ON_LOOP_SECONDS = 0.02

Observe = Callable[[Model, tuple[str, ...], BatchReport], None]


class _Key(NamedTuple):
    """What the entries of a batch have in common."""

    model: Model
    chain: tuple[str, ...]
    values: tuple[tuple[str, Number], ...]
    still: tuple[str, ...]
    arrays: tuple[tuple[Role, np.dtype[Any], tuple[int, ...]], ...]


class Scheduler:
    """Runs chains of operations for the requests of an event loop.

    ``observe`` gets a report of every batch, ``ran`` every entry that was run, in the task of its request.
    ``failed`` gets the reason when a batcher fails, after which only a new process helps.
    """

    def __init__(
        self,
        provider: Provider,
        concurrency: int = 1,
        samplers: int = 1,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        observe: Observe = lambda *_: None,
        ran: Callable[[Entry[Any]], None] = lambda _: None,
        failed: Callable[[str], None] = lambda _: None,
        on_loop_seconds: float = ON_LOOP_SECONDS,
    ) -> None:
        """So many batches in threads at a time, and so many of ``samplers`` beside them."""
        self._ran = ran
        on_gpu = provider.executor is not None
        self._executor = provider.executor or ThreadPoolExecutor(concurrency + samplers, "batch")
        self._operations, self._samplers = (
            Batcher(
                _run,
                self._executor,
                concurrency=1 if on_gpu else number,
                limits=limits,
                on_loop_seconds=0 if on_gpu else on_loop_seconds,
                observe=lambda key, report: observe(key.model, key.chain, report),
                failed=failed,
            )
            for number in (concurrency, samplers)
        )

    async def run(
        self,
        model: Model,
        chain: tuple[str, ...],
        given: Arrays,
        rows: int,
        values: Mapping[str, Number],
        seed: int = 0,
        still: Collection[str] = (),
        items: Sequence[int] | None = None,
    ) -> Results:
        """What ``Model.run`` answers, in batches with what others want. Raises as ``Batcher.submit``."""
        arrays = tuple([(role, array.dtype, array.shape[1:]) for role, array in given.items()])
        key = _Key(model, chain, tuple(values.items()), tuple(still), arrays)
        at_once = model.rows_at_once(chain, given, values)
        entry = Entry(key, _names(model, chain), given, rows, at_once, seed, items)
        results = await self._batcher(chain).submit(entry)
        self._ran(entry)
        return results

    @property
    def is_full(self) -> bool:
        """Whether there is an operation for which no more is taken."""
        return self._operations.queues.is_full or self._samplers.queues.is_full

    def check(self, model: Model, chain: tuple[str, ...]) -> None:
        """Raises Overloaded if so much waits for a chain of operations that no more is taken."""
        self._batcher(chain).queues.check(_names(model, chain))

    def _batcher(self, chain: tuple[str, ...]) -> Batcher[_Key]:
        return self._samplers if any(name.startswith(SAMPLE) for name in chain) else self._operations

    @property
    def ailments(self) -> list[str]:
        """What is wrong that only a new process mends."""
        return [*self._operations.ailments, *self._samplers.ailments]

    @property
    def waiting(self) -> Mapping[tuple[str, str], int]:
        """The rows that wait, by the name of a model and those of operations, joined by ``+``."""
        # No operation is run by both.
        return {**self._operations.queues.rows, **self._samplers.queues.rows}

    def close(self) -> None:
        """Run nothing more; what is under way ends by itself."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def _names(model: Model, chain: tuple[str, ...]) -> tuple[str, str]:
    return model.manifest.name, "+".join(chain)


def _run(key: _Key, parts: Sequence[Part]) -> list[Results]:
    return key.model.run_batch(key.chain, parts, dict(key.values), key.still)
