"""One process: pictures are read and decoded in threads while ONNX Runtime runs the batch before.

Batches have the limits of the service, and none has rows of two shards, so a shard does not depend on what
was done before it.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from service.bulk import BulkError
from service.bulk.plan import Plan
from service.bulk.sinks import Row, Value
from service.bulk.sources.base import Item, Source
from service.bulk.work.base import Input, Work
from service.errors import GraphFailed, Problem

Broken = tuple[str, str]
"""A key, and the reason why there is no result for it."""

# Chunks that are read ahead, for each thread that decodes.
_AHEAD = 2


class Report(NamedTuple):
    """A part of a run that is over: pictures and broken ones, and the shard if it is done with it."""

    pictures: int
    broken: int
    shard: int | None


class _Chunk(NamedTuple):
    shard: int
    items: Sequence[Item]
    is_last: bool


class _Prepared(NamedTuple):
    chunk: _Chunk
    inputs: list[tuple[Item, Input]]
    broken: list[Broken]


@dataclass(frozen=True)
class Engine:
    """Runs shards of a plan; ``threads`` decode."""

    plan: Plan
    source: Source
    work: Work
    threads: int

    def run(self, shards: Sequence[int]) -> Iterator[Report]:
        """Run and write some shards: a report for each chunk.

        Raises BulkError or OSError if reading the source or writing a shard fails.
        """
        rows: list[Row] = []
        broken: list[Broken] = []
        for prepared in self._ahead(self._chunks(shards)):
            done, failed = self._results(prepared.inputs)
            rows.extend(done)
            broken.extend(prepared.broken)
            broken.extend(failed)
            chunk = prepared.chunk
            lost = len({key for key, _ in (*prepared.broken, *failed)})
            if chunk.is_last:
                lost += self._finish(chunk.shard, rows, broken)
                rows, broken = [], []
            yield Report(len(chunk.items), lost, chunk.shard if chunk.is_last else None)

    def _chunks(self, shards: Sequence[int]) -> Iterator[_Chunk]:
        for shard in shards:
            items = self.source.items(self.plan.units(shard))
            chunk = list(islice(items, self.work.chunk))
            while True:
                following = list(islice(items, self.work.chunk))
                yield _Chunk(shard, chunk, not following)
                if not following:
                    break
                chunk = following

    def _ahead(self, chunks: Iterator[_Chunk]) -> Iterator[_Prepared]:
        """Prepare chunks in threads, a few of them ahead; they come in order."""
        # A source is read by one thread only; files are read where they are decoded.
        reader, decoders = ThreadPoolExecutor(1, "read"), ThreadPoolExecutor(self.threads, "decode")
        waiting: deque[Future[_Prepared | None]] = deque()

        def prepare(chunk: "Future[_Chunk | None]") -> _Prepared | None:
            read = chunk.result()
            return None if read is None else self._prepare(read)

        def ahead() -> None:
            waiting.append(decoders.submit(prepare, reader.submit(next, chunks, None)))

        try:
            for _ in range(_AHEAD * self.threads):
                ahead()
            while (prepared := waiting.popleft().result()) is not None:
                ahead()
                yield prepared
        finally:
            reader.shutdown(cancel_futures=True)
            decoders.shutdown(cancel_futures=True)

    def _prepare(self, chunk: _Chunk) -> _Prepared:
        inputs: list[tuple[Item, Input]] = []
        broken: list[Broken] = []
        for item in chunk.items:
            try:
                inputs.extend([(item, each) for each in self.work.prepare(item)])
            except (Problem, BulkError) as error:
                broken.append((item.key, str(error)))
            except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
                broken.append((item.key, f"the file cannot be read: {error.strerror or error}"))
        return _Prepared(chunk, inputs, broken)

    def _results(self, inputs: Sequence[tuple[Item, Input]]) -> tuple[list[Row], list[Broken]]:
        """The rows of some inputs, in order; inputs of one shape run together, and rows alone."""
        batches: dict[tuple[int, ...] | int, list[int]] = {}
        for index, (_, each) in enumerate(inputs):
            batches.setdefault(each.shape or index, []).append(index)
        results: list[dict[str, Value] | str] = [""] * len(inputs)
        for indices in batches.values():
            found = self._run([inputs[index][1] for index in indices])
            for index, result in zip(indices, found, strict=True):
                results[index] = result
        rows, broken = list[Row](), list[Broken]()
        for (item, given), result in zip(inputs, results, strict=True):
            if isinstance(result, str):
                broken.append((item.key, result))
            else:
                rows.append(Row(item.key, item.label, given.view, given.height, given.width, result))
        return rows, broken

    def _run(self, inputs: Sequence[Input]) -> Sequence[dict[str, Value] | str]:
        """The results of each input, or why it has none: a failed batch is run again one by one."""
        try:
            return self.work.run(inputs)
        except (GraphFailed, Problem) as error:
            if len(inputs) == 1:
                return [str(error)]
            return [self._run([each])[0] for each in inputs]

    def _finish(self, shard: int, rows: Sequence[Row], broken: Sequence[Broken]) -> int:
        """Write a shard. A key that is there twice is written once; the rows that are left out for it."""
        once: dict[tuple[str, str | None], Row] = {}
        twice: list[Broken] = []
        lost = {key for key, _ in broken}
        for row in rows:
            if row.key in lost:
                # One of its views failed.
                continue
            if once.setdefault((row.key, row.view), row) is not row:
                twice.append((row.key, "another picture of this shard has the same key"))
        reasons = dict(reversed([*broken, *twice]))
        self.plan.finish(shard, [*once.values()], [*reasons.items()], self.work.empty)
        return len(twice)
