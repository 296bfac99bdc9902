"""The lanes of the models that are served: made when they are first used, closed when a model is gone."""

import threading
import time
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from service.batcher import Lane, Run, Slots
from service.manifest import Role
from service.models import SAMPLE, Model
from service.operations import Number
from service.queued import Batch, Limits, Request
from service.rows import Arrays, Part, Results

# Between choosing a model and joining its lane a request reads its body: what is gone waits for such.
GRACE = 10.0


class _Alike(NamedTuple):
    """What the requests of a batch have in common."""

    values: tuple[tuple[str, Number], ...]
    still: tuple[str, ...]
    arrays: tuple[tuple[Role, np.dtype[Any], tuple[int, ...]], ...]


class Lanes:
    """A lane for each chain of operations of each model. Safe to use from several threads.

    ``observe`` is told of every batch: the model, the chain, and what is known of it; ``ran`` of every
    request that was run, in its caller's task.
    """

    def __init__(
        self,
        concurrency: int = 1,
        samplers: int = 1,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        observe: Callable[[Model, tuple[str, ...], Batch], None] = lambda *_: None,
        ran: Callable[[str, Request[Any]], None] = lambda *_: None,
        quick: float = 0.0,
    ) -> None:
        """So many batches at a time, and so many ``samplers`` beside them; ``quick`` as in ``Lane``."""
        self._ran = ran
        self._slots, self._sampling = _slots(concurrency), _slots(samplers)
        self._limits, self._observe, self._quick = limits, observe, quick
        self._gone: weakref.WeakSet[Model] = weakref.WeakSet()
        self._lanes: dict[Model, dict[tuple[str, ...], Lane[_Alike]]] = {}
        self._lock = threading.Lock()

    async def run(
        self,
        model: Model,
        chain: tuple[str, ...],
        given: Arrays,
        rows: int,
        values: Mapping[str, Number],
        seed: int = 0,
        still: Collection[str] = (),
    ) -> Results:
        """What ``Model.run`` answers, in batches with what others want. Raises as ``Lane.submit``."""
        arrays = tuple([(role, array.dtype, array.shape[1:]) for role, array in given.items()])
        alike = _Alike(tuple(values.items()), tuple(still), arrays)
        at_once = model.rows_at_once(chain, given, values)
        lane, request = self.lane(model, chain), Request(alike, given, rows, at_once, seed)
        results = await lane.submit(request)
        self._ran(lane.name, request)
        return results

    def lane(self, model: Model, chain: tuple[str, ...]) -> Lane[_Alike]:
        """The lane of a chain of a model."""
        lane = self._lanes.get(model, {}).get(chain)
        if lane is not None:
            return lane
        with self._lock:
            lanes = self._lanes.setdefault(model, {})
            if chain not in lanes:
                lanes[chain] = Lane(
                    f"{'+'.join(chain)} of {model.manifest.name}",
                    _runner(model, chain),
                    self._sampling if any(name.startswith(SAMPLE) for name in chain) else self._slots,
                    self._limits,
                    lambda batch: self._observe(model, chain, batch),
                    lambda: self._forget(model, chain),
                    self._quick,
                )
                if model in self._gone:
                    lanes[chain].close(GRACE)
            return lanes[chain]

    @property
    def dead(self) -> list[str]:
        """The lanes whose thread has died; to ask wakes all, so who died asleep is known the next time."""
        lanes = self._all()
        for lane in lanes:
            lane.wake()
        return [lane.name for lane in lanes if not lane.alive]

    @property
    def waiting(self) -> list[tuple[Model, tuple[str, ...], int]]:
        """The rows that wait in each lane."""
        with self._lock:
            return [
                (model, chain, lane.waiting)
                for model, lanes in self._lanes.items()
                for chain, lane in lanes.items()
            ]

    def keep(self, models: Collection[Model]) -> None:
        """Close the lanes of all other models; requests that hold such a model are answered still."""
        with self._lock:
            gone = [model for model in self._lanes if model not in models and model not in self._gone]
            self._gone.update(gone)
            for model in gone:
                for lane in self._lanes[model].values():
                    lane.close(GRACE)

    def close(self, seconds: float) -> bool:
        """Take no more, and wait until all is worked off; whether it was, within so many seconds."""
        lanes = self._all()
        for lane in lanes:
            lane.close()
        until = time.monotonic() + seconds
        return all(lane.join(max(0.0, until - time.monotonic())) for lane in lanes)

    def _forget(self, model: Model, chain: tuple[str, ...]) -> None:
        with self._lock:
            if model in self._gone:
                del self._lanes[model][chain]
                if not self._lanes[model]:
                    del self._lanes[model]

    def _all(self) -> list[Lane[_Alike]]:
        with self._lock:
            return [lane for lanes in self._lanes.values() for lane in lanes.values()]


def _slots(number: int) -> Slots:
    """A lock is a semaphore of one, at a tenth of its time."""
    return threading.Lock() if number == 1 else threading.Semaphore(number)


def _runner(model: Model, chain: tuple[str, ...]) -> Run[_Alike]:
    def run(alike: _Alike, parts: Sequence[Part]) -> list[Results]:
        return model.run_batch(chain, parts, dict(alike.values), alike.still)

    return run
