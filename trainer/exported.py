"""An exported model, run by the roles of its operations, as the service does."""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor

from service.manifest import FILE_NAME, CodesSpec, File, Input, Manifest, Operation, Role
from trainer.data import Batch
from trainer.errors import ExportError
from trainer.running import ExportedGraphs
from trainer.still import still_noise

SAMPLE = "sample/"
# At once, of images or noise; beside them, a graph holds the distances of every cell to every code.
MOST_ROWS, MOST_VALUES = 250, 2**20


@dataclass(frozen=True)
class Outputs:
    """What an operation gave: arrays by role, and figures, float32 ``(N,)``, by name."""

    arrays: dict[Role, Tensor] = field(default_factory=dict)
    figures: dict[str, Tensor] = field(default_factory=dict)


class Reconstructed(NamedTuple):
    """Images, uint8 ``(N, H, W, C)``, their codes ``(N, *shape)``, and the images decoded from them."""

    images: Tensor
    codes: Tensor
    decoded: Tensor


class ExportedModel:
    """The operations of an exported folder."""

    def __init__(self, folder: Path, operations: Mapping[str, Operation], codes: CodesSpec) -> None:
        self.operations = operations
        self.codes = codes
        self._run = ExportedGraphs(folder)

    @property
    def samplers(self) -> list[str]:
        """The operations that draw from nothing but noise and classes."""
        return [
            name
            for name, operation in self.operations.items()
            if name.startswith(SAMPLE) and not operation.takes(Role.target)
        ]

    def run(
        self,
        name: str,
        rows: int,
        given: Mapping[Role, Tensor],
        generator: torch.Generator,
        values: Mapping[str, float] | None = None,
        *,
        still: bool = True,
    ) -> Outputs:
        """Run an operation on ``rows`` rows of what is given by role.

        Noise comes from ``generator``; if ``still``, that which can stand still does. Where codes could
        be completed, all are sampled. ``values`` go over the defaults of the parameters.
        """
        operation = self.operations[name]
        chosen = _chosen(operation, values or {})
        feeds: dict[str, Tensor] = {}
        for item in operation.inputs:
            if item.role is Role.parameter:
                dtype = torch.int64 if operation.parameters[item.name].dtype == "int64" else torch.float32
                feeds[item.name] = torch.tensor(chosen[item.name], dtype=dtype)
            elif item.is_noise:
                feeds[item.name] = _noise(item, rows, chosen, generator, still=still)
            elif item.role in given:
                feeds[item.name] = given[item.role]
            else:
                feeds[item.name] = self._absent(item, rows)
        outputs = Outputs()
        tensors = self._run.run(operation.graph, feeds, [output.name for output in operation.outputs])
        for output, tensor in zip(operation.outputs, tensors, strict=True):
            if output.role is Role.figure:
                outputs.figures[output.name] = tensor
            else:
                outputs.arrays[output.role] = tensor
        return outputs

    def reconstruct(self, batches: Iterable[Batch]) -> Iterator[Reconstructed]:
        """Encode and decode images, batch by batch."""
        generator = torch.Generator()
        for batch in batches:
            images = batch.images.permute(0, 2, 3, 1).contiguous()
            codes = self.run("encode", len(images), {Role.images: images}, generator).arrays[Role.codes]
            decoded = self.run("decode", len(images), {Role.codes: codes}, generator).arrays[Role.images]
            yield Reconstructed(images, codes, decoded)

    def sample(
        self,
        name: str,
        count: int,
        generator: torch.Generator,
        labels: Tensor | None = None,
        values: Mapping[str, float] | None = None,
    ) -> Outputs:
        """``count`` samples by an operation: images, uint8 ``(N, H, W, C)``, and figures.

        ``labels`` are int64 ``(count,)``, for an operation that takes them.
        """
        images: list[Tensor] = []
        figures: dict[str, list[Tensor]] = {}
        rows = self._rows_at_once(self.operations[name], values or {})
        for start in range(0, count, rows):
            size = min(rows, count - start)
            given = {} if labels is None else {Role.label: labels[start : start + size]}
            outputs = self.run(name, size, given, generator, values)
            arrays = outputs.arrays
            if Role.images not in arrays:
                codes = arrays[Role.codes]
                arrays = self.run("decode", size, {Role.codes: codes}, generator, still=False).arrays
            images.append(arrays[Role.images])
            for figure, tensor in outputs.figures.items():
                figures.setdefault(figure, []).append(tensor)
        joined = {figure: torch.cat(tensors) for figure, tensors in figures.items()}
        return Outputs({Role.images: torch.cat(images)}, joined)

    def _rows_at_once(self, operation: Operation, values: Mapping[str, float]) -> int:
        chosen = _chosen(operation, values)
        largest = max(math.prod(_shape(item, chosen)) for item in operation.inputs)
        return max(1, min(MOST_ROWS, MOST_VALUES // largest))

    def _absent(self, item: Input, rows: int) -> Tensor:
        """What stands in the place of codes, mask or class where nothing is to be kept or asked for."""
        if item.role is Role.codes:
            dtype = torch.int32 if self.codes.dtype == "int32" else torch.float32
            return torch.zeros(rows, *self.codes.shape, dtype=dtype)
        if item.role is Role.mask:
            return torch.ones(rows, *self.codes.shape, dtype=torch.bool)
        if item.role is Role.label and item.default is not None:
            return torch.full((rows,), item.default)
        raise ValueError(f"input {item.name!r} needs {item.role}, and none was given")


def open_exported(folder: Path) -> tuple[ExportedModel, Manifest]:
    """The model of an exported folder. Raises ExportError if it is none."""
    try:
        manifest = Manifest.model_validate_json((folder / FILE_NAME).read_bytes())
    except OSError as error:
        raise ExportError(f"{folder} is no exported model: no {FILE_NAME} can be read in it") from error
    except ValidationError as error:
        first = error.errors()[0]["msg"]
        raise ExportError(f"{folder / FILE_NAME} is no manifest: {first}") from error
    return ExportedModel(folder, manifest.operations, manifest.codes), manifest


def file_entries(folder: Path) -> dict[str, File]:
    """What the manifest says of the files in a folder: the sha256 and size of each."""
    return {
        path.name: File(sha256=hashlib.sha256(path.read_bytes()).hexdigest(), size=path.stat().st_size)
        for path in sorted(folder.iterdir())
        if path.is_file()
    }


def _chosen(operation: Operation, values: Mapping[str, float]) -> dict[str, float]:
    return {name: parameter.default for name, parameter in operation.parameters.items()} | dict(values)


def _noise(
    item: Input, rows: int, values: Mapping[str, float], generator: torch.Generator, *, still: bool
) -> Tensor:
    shape = (rows, *_shape(item, values))
    if still and item.may_stand_still:
        return still_noise(item, rows, shape[1:])
    draw = torch.randn if item.role is Role.normal else torch.rand
    return draw(shape, generator=generator)


def _shape(item: Input, values: Mapping[str, float]) -> tuple[int, ...]:
    return tuple(int(values[axis]) if isinstance(axis, str) else axis for axis in item.shape)
