"""Pictures that are too large for one run: in tiles, strip by strip.

A strip is a row of windows. The windows of a strip are the rows of one queue entry, so they run beside the
entries of other requests, and no more than two strips of a picture have to be in memory: while one runs, the
next is read.

    picture ──> strip ──> windows ──> batches ──> codes of the windows ──> codes of the strip ──> codes

The codes and the pixels are those of the whole, because every window has the halo that the manifest names.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Protocol, TypeVar, TypeVarTuple

import numpy as np

from service.contract.manifest import Role
from service.contract.runner import Array, Arrays, Results
from service.models.model import ServedModel
from service.models.pipeline import Number, Pipeline
from service.tiling.operation import TiledOperation, tiled_operations
from service.tiling.plan import Span
from service.tiling.rows import ArrayRows, RowSink, RowSource, Strips

T = TypeVar("T")
Given = TypeVarTuple("Given")

Sinks = Mapping[Role, RowSink]


class Scheduler(Protocol):
    """Runs the strips: ``service.models.scheduler.Scheduler``, or what runs them without a queue."""

    def run(
        self,
        model: ServedModel,
        pipeline: Pipeline,
        given: Arrays,
        rows: int,
        values: Mapping[str, Number],
        seed: int = 0,
        default_noise: Collection[str] = (),
        items: Sequence[int] | None = None,
        *,
        reserved: bool = False,
    ) -> Awaitable[Results]:
        """The results of ``ServedModel.run``; what is ``reserved`` has a reservation."""

    def reservation(
        self, model: ServedModel, pipeline: Pipeline, nbytes: int
    ) -> AbstractContextManager[None]:
        """Room for a request that runs a large image in many entries and holds ``nbytes``."""


@dataclass(frozen=True)
class TiledPipeline:
    """A pipeline of a model that runs in tiles.

    - ``default_noise``: the operations that use their default noise; other noise cannot be cut into tiles
    - ``others``: arrays by role with one row, such as the label, which every tile gets
    """

    scheduler: Scheduler
    model: ServedModel
    pipeline: Pipeline
    values: Mapping[str, Number]
    default_noise: Collection[str] = ()
    others: Arrays = field(default_factory=dict)

    def operations(self, height: int, width: int) -> list[TiledOperation]:
        """The operations for a picture of ``height`` x ``width`` pixels.

        Raises TooLarge, with the reason, if one of them cannot run in tiles.
        """
        return tiled_operations(self.model, self.pipeline, self.default_noise, height, width)

    async def run(
        self, source: RowSource, sinks: Sinks | None = None, nbytes: int | None = 0
    ) -> dict[Role, Array]:
        """Run on one picture, uint8 ``(H, W, C)``, or on one grid of codes, of two axes or three.

        ``sinks`` take outputs of the last operation. All other outputs are returned, by role and without a
        batch axis. ``nbytes`` are the bytes that the source holds, which count as queued until the end; None
        if the caller has a reservation (``Scheduler.reservation``).

        Cancelling the call starts no further strip. When it ends, no thread uses the source or a sink. Raises
        TooLarge as ``operations``, and as ``Scheduler.run``; a strip after the first is not refused for a
        full queue.
        """
        takes_images = self.model.manifest.operations[self.pipeline.names[0]].takes(Role.images)
        scale = 1 if takes_images else self.model.manifest.codes.stride or 1
        height, width = source.height * scale, source.width * scale
        operations = self.operations(height, width)
        made: dict[Role, Array] = {}
        reservation = (
            nullcontext() if nbytes is None else self.scheduler.reservation(self.model, self.pipeline, nbytes)
        )
        with reservation:
            for operation in operations:
                rows = ArrayRows(made[operation.given]) if operation.given in made else source
                targets = dict(sinks or {}) if operation is operations[-1] else {}
                filled = {role: operation.sink(role, height) for role in operation.outputs - targets.keys()}
                await self._run(operation, rows, {**targets, **filled})
                made |= {role: sink.array for role, sink in filled.items()}
        return made

    async def _run(self, operation: TiledOperation, source: RowSource, sinks: Sinks) -> None:
        pipeline, strips = self.model.pipeline_of(operation.name), Strips(source)
        values = {name: self.values[name] for name in pipeline.parameters}
        spans, count = operation.plan.rows, len(operation.plan.columns)
        others = {role: np.repeat(array, count, axis=0) for role, array in self.others.items()}

        def hand_on(results: Results, span: Span) -> None:
            for role in operation.outputs:
                sinks[role].write(operation.strip(role, results, span))

        reading = asyncio.create_task(_in_thread(operation.windows, strips, spans[0]))
        try:
            for span, following in zip_longest(spans, spans[1:]):
                given = {operation.given: await reading, **others}
                if following is not None:
                    reading = asyncio.create_task(_in_thread(operation.windows, strips, following))
                results = await self.scheduler.run(
                    self.model,
                    pipeline,
                    given,
                    count,
                    values,
                    default_noise=self.default_noise,
                    reserved=True,
                )
                await _in_thread(hand_on, results, span)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


async def run(
    scheduler: Scheduler,
    model: ServedModel,
    pipeline: Pipeline,
    given: Arrays,
    rows: int,
    values: Mapping[str, Number],
    default_noise: Collection[str] = (),
) -> Results:
    """The results of ``Scheduler.run`` for images or codes that are too large to run whole: one by one.

    Raises as ``TiledPipeline.run``.
    """
    role = Role.images if Role.images in given else Role.codes
    made: list[dict[Role, Array]] = []
    with scheduler.reservation(model, pipeline, sum(array.nbytes for array in given.values())):
        for row in range(rows):
            others = {each: array[row : row + 1] for each, array in given.items() if each is not role}
            tiled = TiledPipeline(scheduler, model, pipeline, values, default_noise, others)
            made.append(await tiled.run(ArrayRows(given[role][row]), nbytes=None))
    arrays = {
        each: made[0][each][None] if rows == 1 else np.stack([row[each] for row in made]) for each in made[0]
    }
    return Results(arrays, {}).with_given(given)


async def _in_thread(work: Callable[[*Given], T], *given: *Given) -> T:
    """Run ``work`` in a thread. If the call is cancelled, it ends when the thread does."""
    running = asyncio.ensure_future(asyncio.to_thread(work, *given))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
