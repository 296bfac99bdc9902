"""One operation in tiles: what its windows take, and where their outputs belong."""

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from service.contract.manifest import Role
from service.contract.runner import Array, Results
from service.errors import GraphFailed, TooLarge
from service.models.model import ServedModel
from service.models.pipeline import Pipeline
from service.tiling.plan import Plan, Span, plan
from service.tiling.rows import FilledRows, Rows, Strips


class Untiled(ValueError):
    """An operation that cannot run in tiles; the message says why."""


@dataclass(frozen=True)
class TiledOperation:
    """An operation for pictures of one size.

    - ``name``: its name in the manifest
    - ``given``: the role that is cut into windows, images or codes
    - ``outputs``: the roles that it gives
    - ``plan``: its windows, in blocks
    - ``scales``: the pixels or codes of a block along an axis, by role

    A block is the least square of pixels that windows can be made of: whole cells of the grid of codes, and
    a multiple of what the model takes.
    """

    name: str
    given: Role
    outputs: frozenset[Role]
    plan: Plan
    scales: dict[Role, int]

    @classmethod
    def of(cls, model: ServedModel, name: str, height: int, width: int) -> "TiledOperation":
        """The operation ``name`` of a model for pictures of ``height`` x ``width`` pixels. Raises Untiled."""
        manifest, operation = model.manifest, model.manifest.operations[name]
        stride, multiple = manifest.codes.stride, manifest.image.multiple_of
        if operation.tiling is None:
            raise Untiled(f"{name}: {operation.untiled or 'its manifest says nothing about tiling'}")
        if stride is None or multiple is None:
            raise Untiled(f"{name}: the model takes images of one size only")
        outputs = frozenset(output.role for output in operation.outputs)
        if not outputs <= {Role.images, Role.codes}:
            raise Untiled(f"{name}: it gives more than images and codes")
        block = math.lcm(stride, multiple)
        halo = -(-operation.tiling.halo * stride // block)
        least = -(-_least_cells(model) * stride**2 // block**2)
        most = max(model.batch_limits.tile_pixels // block**2, 2 * least)
        planned = plan(height // block, width // block, halo, most, least)
        if planned is None:
            raise Untiled(f"{name}: a tile needs {halo * block} more pixels on each side, which are too many")
        given = Role.images if operation.takes(Role.images) else Role.codes
        return cls(name, given, outputs, planned, {Role.images: block, Role.codes: block // stride})

    def sink(self, role: Role, height: int) -> FilledRows:
        """A sink for an output on a picture of ``height`` pixels."""
        return FilledRows(height * self.scales[role] // self.scales[Role.images])

    def windows(self, strips: Strips, span: Span) -> Array:
        """The windows of a strip: ``(N, height, width)``, with the channels of pixels."""
        scale = self.scales[self.given]
        rows = strips.read(span.start * scale, (span.start + self.plan.height) * scale)
        width = self.plan.width * scale
        return np.stack([rows[:, each.start * scale :][:, :width] for each in self.plan.columns])

    def strip(self, role: Role, results: Results, span: Span) -> Rows:
        """The rows of a strip that the outputs of its windows give. Raises GraphFailed for another size."""
        scale, windows = self.scales[role], results.arrays[role]
        size = (self.plan.height * scale, self.plan.width * scale)
        if windows.shape[1:3] != size:
            detail = f"operation {self.name!r} gave {role} of {windows.shape[1:3]} for a tile of {size}"
            raise GraphFailed(detail)
        return np.concatenate(
            [
                window[_scaled(span, scale), _scaled(each, scale)]
                for window, each in zip(windows, self.plan.columns, strict=True)
            ],
            axis=1,
        )


def tiled_operations(
    model: ServedModel, pipeline: Pipeline, default_noise: Collection[str], height: int, width: int
) -> list[TiledOperation]:
    """The operations of a pipeline for a picture of ``height`` x ``width`` pixels.

    The operations named in ``default_noise`` use their default noise; other noise cannot be cut into tiles.
    Raises TooLarge, with the reason, if one of them cannot run in tiles.
    """
    try:
        if pipeline.draws(default_noise):
            raise Untiled(f"{pipeline.name}: it draws noise for the whole image")
        return [TiledOperation.of(model, name, height, width) for name in pipeline.names]
    except Untiled as reason:
        allowed, name = model.whole_pixels, model.manifest.name
        raise TooLarge(
            f"an image of {height} x {width} is {height * width} pixels; over {allowed} (the setting "
            f"tile_pixels) it runs in tiles, and model {name!r} cannot: {reason}",
            given=height * width,
            allowed=allowed,
        ) from reason


def _scaled(span: Span, scale: int) -> slice:
    return slice((span.first - span.start) * scale, (span.stop - span.start) * scale)


def _least_cells(model: ServedModel) -> int:
    """The least cells of a window that is computed as the whole is, to the last bit.

    ONNX Runtime's matrix product adds up channels in blocks of 128, but in longer ones if a thread has 64
    cells or fewer. A thread has a multiple of 16 cells, and the last one has the rest.
    """
    threads = model.provider.threads
    return threads * (80 + 16 * threads)
