"""The codes that a run of ``encode`` has written, to be decoded: Parquet, npy or tar shards."""

import io
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from service.bulk import BulkError
from service.bulk.filesystem import Location
from service.bulk.plan import SHARDS, Plan, read_manifest
from service.bulk.sources.archives import open_tar
from service.bulk.sources.base import UNKNOWN, Item, Unit
from service.contract.manifest import Manifest

_Stored = tuple[dict[str, Any], NDArray[Any]]

_COLUMNS = ["key", "label", "view", "height", "width"]
# Rows of Parquet that are in memory at once.
_BATCH = 1024


@dataclass(frozen=True)
class StoredCodes:
    """The codes in the output of a run; ``resized`` if it resized the pictures."""

    plan: Plan
    resized: bool

    @classmethod
    def of(cls, given: Location, model: Manifest) -> "StoredCodes":
        """The codes of an output.

        Raises BulkError if it has none, is not finished, or belongs to another model or version.
        """
        manifest = read_manifest(given)
        if manifest["command"] != "encode":
            raise BulkError(f"the input {given.uri} was written by {manifest['command']}, and has no codes")
        made_by = manifest["model"]
        if (made_by["name"], made_by["version"]) != (model.name, model.version):
            raise BulkError(
                f"the codes in {given.uri} are of {made_by['name']} {made_by['version']}, and the model is "
                f"{model.name} {model.version}"
            )
        plan = Plan(given, manifest["format"], manifest["shards"], manifest["pictures"])
        if missing := plan.missing():
            done = plan.shards - len(missing)
            raise BulkError(f"the input {given.uri} has {done} of {plan.shards} shards; finish its run first")
        return cls(plan, manifest["options"]["resize"])

    def shards(self, shard_size: int) -> Iterator[list[Unit]]:  # noqa: ARG002 - the protocol's
        for shard in range(self.plan.shards):
            yield [Unit(self.plan.stem(shard), rows=UNKNOWN)]

    def items(self, units: Sequence[Unit]) -> Iterator[Item]:
        folder = self.plan.output.child(SHARDS)
        read = {"parquet": _parquet, "npy": _npy, "tar": _tar}[self.plan.format]
        for unit in units:
            try:
                for record, codes in read(folder, unit.path):
                    yield self._item(record, codes)
            except (pa.ArrowInvalid, tarfile.TarError, ValueError) as error:
                raise BulkError(f"shard {unit.path} of {self.plan.output.uri} is damaged: {error}") from error

    def _item(self, record: dict[str, Any], codes: NDArray[Any]) -> Item:
        size = None if self.resized else (record["height"], record["width"])
        return Item(record["key"], record["label"], partial(_given, codes), record.get("view"), size)


def _parquet(folder: Location, stem: str) -> Iterator[_Stored]:
    with folder.child(f"{stem}.parquet").open() as file:
        for batch in pq.ParquetFile(file).iter_batches(_BATCH, columns=[*_COLUMNS, "codes", "shape"]):
            records = batch.select(_COLUMNS).to_pylist()
            codes = zip(_split(batch.column("codes")), _split(batch.column("shape")), strict=True)
            for record, (flat, shape) in zip(records, codes, strict=True):
                yield record, flat.reshape(shape)


def _split(lists: pa.ListArray) -> list[NDArray[Any]]:
    """The lists of a column, as arrays."""
    ends = lists.offsets.to_numpy()
    values = lists.values.to_numpy()
    return [values[start:stop] for start, stop in pairwise(ends)]


def _npy(folder: Location, stem: str) -> Iterator[_Stored]:
    codes = np.load(io.BytesIO(folder.child(f"{stem}.npy").read()), allow_pickle=False)
    records = folder.child(f"{stem}.jsonl").read().splitlines()
    for record, each in zip(records, codes, strict=True):
        yield orjson.loads(record), each


def _tar(folder: Location, stem: str) -> Iterator[_Stored]:
    with folder.child(f"{stem}.tar").open() as file, open_tar(file) as archive:
        read = (
            (member.name, content.read())
            for member in archive
            if (content := archive.extractfile(member)) is not None
        )
        # KEY.json comes last of its sample.
        arrays: dict[str, bytes] = {}
        for name, data in read:
            if name.endswith(".json"):
                codes = np.load(io.BytesIO(arrays[f"{name.removesuffix('.json')}.codes.npy"]))
                yield orjson.loads(data), codes
                arrays = {}
            else:
                arrays[name] = data


def _given(codes: NDArray[Any]) -> NDArray[Any]:
    return codes
