"""The graphs between images and discrete codes."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.contract.manifest import CodesSpec, ImageSpec, Input, Output, Parameter, Role
from service.contract.operations import LEVELS
from trainer.models.base import to_pixels, to_unit
from trainer.models.graph import Graph, example_size
from trainer.models.onnx_scan import Chain, Loop, Tensors
from trainer.models.quantizers import LookedUp, MultiScaleQuantizer, Quantizer
from trainer.models.quantizers.lookup import Table, block_rows, in_groups


def encoding(encoder: nn.Module, quantizer: Quantizer, image: ImageSpec, codes: CodesSpec) -> Graph:
    """The graph ``encode`` of a grid of discrete codes, without its tiling.

    ``encoder`` turns pixels, float32 ``(B, C, H, W)`` in [-1, 1], into the grid that is looked up, float32
    ``(B, D, h, w)``.
    """
    encode = Encode(encoder, quantizer)
    module, on_gpu = _modules(encode, codes)
    step, nested = image.multiple_of, _Nested.of(codes)
    axes, size = {0: "n"}, (image.height, image.width)
    if step is not None:
        axes |= {1: f"{step}*h", 2: f"{step}*w"}
        size = example_size(image.height, step), example_size(image.width, step)
    return Graph(
        operation="encode",
        file="encoder.onnx",
        module=module,
        provider_modules={} if on_gpu is None else {"cuda": on_gpu},
        examples=(torch.zeros(2, *size, image.channels, dtype=torch.uint8), *nested.examples),
        axes=(axes, *nested.axes),
        inputs=(Input(name="images", role=Role.images), *nested.inputs),
        outputs=(Output(name="codes", role=Role.codes),),
        parameters=nested.parameters,
        description="The nearest code of each cell of the encoder's grid."
        if codes.level_grids is None
        else "The nearest codes of the grid of each level, from coarse to fine.",
    )


def decoding(quantizer: Quantizer, decoder: nn.Module, codes: CodesSpec) -> Graph:
    """The graph ``decode`` of a grid of discrete codes, without its tiling.

    ``decoder`` turns code vectors, float32 ``(B, D, h, w)``, into pixels, float32 ``(B, C, H, W)`` in
    [-1, 1].
    """
    nested, shape = _Nested.of(codes), codes.shape
    axes = {0: "n"}
    if codes.stride is not None:
        axes |= {1: "h", 2: "w"}
        shape = (*map(example_size, shape[:2]), *shape[2:])
    return Graph(
        operation="decode",
        file="decoder.onnx",
        module=Decode(quantizer, decoder),
        examples=(torch.zeros(2, *shape, dtype=torch.int32), *nested.examples),
        axes=({**axes, **nested.axis}, *nested.axes),
        inputs=(Input(name="codes", role=Role.codes), *nested.inputs),
        outputs=(Output(name="images", role=Role.images),),
        parameters=nested.parameters,
        description="The decoder's image of a grid of codes."
        if codes.level_grids is None
        else "The decoder's image of the codes of all levels or the first.",
    )


class _Nested(NamedTuple):
    """What the graphs of nested codes have beyond those of others: the parameter ``levels``."""

    inputs: tuple[Input, ...] = ()
    examples: tuple[Tensor, ...] = ()
    axes: tuple[Mapping[int, str], ...] = ()
    axis: Mapping[int, str] = MappingProxyType({})
    parameters: Mapping[str, Parameter] = MappingProxyType({})

    @classmethod
    def of(cls, codes: CodesSpec) -> "_Nested":
        """That of some codes; of codes without levels there is nothing."""
        if codes.levels is None:
            return cls()
        parameter = Parameter(
            dtype="int64",
            default=codes.levels,
            minimum=1,
            maximum=codes.levels,
            description="The first levels of the codes, whose picture is the coarser the fewer they are.",
        )
        return cls(
            inputs=(Input(name=LEVELS, role=Role.parameter),),
            examples=(torch.tensor(codes.levels),),
            axes=({},),
            axis={len(codes.shape): "l"},
            parameters={LEVELS: parameter},
        )


class Encode(nn.Module):
    """Images, uint8 ``(N, H, W, C)``, to codes, int32 ``(N, h, w)``.

    Codes with levels are ``(N, h, w, l)`` or ``(N, t)``, of which ``levels``, an int64 scalar, takes the
    first.
    """

    def __init__(self, encoder: nn.Module, quantizer: Quantizer) -> None:
        super().__init__()
        self.encoder = encoder
        self.quantizer = quantizer

    def forward(self, images: Tensor, levels: Tensor | None = None) -> Tensor:
        codes = self.look_up(self.grid(images)).int()
        return codes if levels is None else first_codes(codes, self.quantizer.ends(levels))

    def look_up(self, z: Tensor) -> Tensor:
        """The codes of the encoder's outputs, int64."""
        return self.quantizer.encode(z)

    def grid(self, images: Tensor) -> Tensor:
        """The encoder's outputs, float32 ``(N, D, h, w)``."""
        z: Tensor = self.encoder(to_unit(images.permute(0, 3, 1, 2)))
        return z


def first_codes(codes: Tensor, end: Tensor) -> Tensor:
    """The codes up to ``end``, an int64 scalar, on their last axis."""
    count = cast("int", end.item())
    torch._check(count >= 1)
    torch._check(count <= codes.shape[-1])
    return codes[..., :count]


class _EncodeOnGPU(Encode):
    """``Encode`` as a graph for a GPU: without a loop, and with an arg-min of one level."""

    def look_up(self, z: Tensor) -> Tensor:
        return self.quantizer.encode_on_gpu(z)


class _EncodeInBlocks(Chain):
    """``Encode``, as a graph that looks up ``block`` cells at a time.

    In torch it looks up as ``Encode`` does, and so that is what its graph is compared with.
    """

    def __init__(self, encode: Encode, quantizer: LookedUp, block: int) -> None:
        super().__init__()
        self.axes = {"rows": {0: "blocks"}, "nearest": {0: "blocks"}, "grid": {0: "n", 1: "h", 2: "w"}}
        self.encode = encode
        self.quantizer = quantizer
        self.block = block

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return (self.encode(*inputs),)

    def start(self, *inputs: Tensor) -> Loop:
        images, *levels = inputs
        z = self.encode.grid(images)
        rows = self.quantizer.rows(z)
        # Every block has all its rows, so that a cell's code does not depend on how many cells there are.
        rows = F.pad(rows, (0, 0, 0, -rows.shape[0] % self.block)).view(-1, self.block, rows.shape[1])
        fixed: Tensors = {}
        for level, table in enumerate(self.quantizer.tables()):
            fixed |= {_named("vectors", level): table.vectors, _named("lengths", level): table.lengths}
        fixed["grid"] = z[:, 0]
        if levels:
            (fixed[LEVELS],) = levels
        return Loop({}, {"rows": rows}, fixed)

    def step(self, carried: Tensors, sliced: Tensors, fixed: Tensors) -> tuple[Tensors, Tensors]:
        tables = [
            Table(fixed[_named("vectors", level)], fixed[_named("lengths", level)], self.quantizer.size - 1)
            for level in range(self.quantizer.levels or 1)
        ]
        return carried, {"nearest": self.quantizer.look_up(sliced["rows"], tables).int()}

    def finish(self, carried: Tensors, emitted: Tensors, fixed: Tensors, /) -> tuple[Tensor, ...]:  # noqa: ARG002 - the interface
        grid, found = fixed["grid"], emitted["nearest"].flatten(0, 1)
        codes = found[: grid.numel()].view(*grid.shape, *found.shape[1:])
        if LEVELS not in fixed:
            return (codes,)
        return (first_codes(codes, self.quantizer.ends(fixed[LEVELS])),)


class _EncodeByImage(Chain):
    """``Encode`` with a grid for each level, as a graph that looks up one image at a time.

    What a level looks up depends on all cells of the level before it, so an image is not cut into blocks.
    """

    def __init__(self, encode: Encode, quantizer: MultiScaleQuantizer) -> None:
        super().__init__()
        self.axes = {"grids": {0: "n"}, "nearest": {0: "n"}}
        self.encode = encode
        self.quantizer = quantizer

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return (self.encode(*inputs),)

    def start(self, *inputs: Tensor) -> Loop:
        images, levels = inputs
        table = Table.of(self.quantizer.vectors())
        fixed = {"vectors": table.vectors, "lengths": table.lengths, LEVELS: levels}
        return Loop({}, {"grids": self.encode.grid(images)}, fixed)

    def step(self, carried: Tensors, sliced: Tensors, fixed: Tensors) -> tuple[Tensors, Tensors]:
        table = Table(fixed["vectors"], fixed["lengths"], self.quantizer.size - 1)
        return carried, {"nearest": self.quantizer.look_up(sliced["grids"][None], table)[0].int()}

    def finish(self, carried: Tensors, emitted: Tensors, fixed: Tensors, /) -> tuple[Tensor, ...]:  # noqa: ARG002 - the interface
        return (first_codes(emitted["nearest"], self.quantizer.ends(fixed[LEVELS])),)


def _named(what: str, level: int) -> str:
    return f"{what}_{level}" if level else what


def _modules(encode: Encode, codes: CodesSpec) -> tuple[nn.Module, nn.Module | None]:
    """An encoder as a graph that is quick on a CPU, and as one for a GPU if that is another.

    On a CPU cells are looked up in blocks, and by an arg-min of two levels. On a GPU each block and level
    costs launches, and a graph with a loop cannot be captured as a CUDA graph.
    """
    quantizer = encode.quantizer
    cells = math.prod(codes.shape[:2]) if codes.level_grids is None else codes.level_grids[-1] ** 2
    block = block_rows(cells, quantizer.size)
    if not isinstance(quantizer, LookedUp | MultiScaleQuantizer):
        return encode, None
    if block is None and not in_groups(quantizer.size):
        return encode, None
    module: nn.Module = encode
    if block is not None:
        module = (
            _EncodeByImage(encode, quantizer)
            if isinstance(quantizer, MultiScaleQuantizer)
            else _EncodeInBlocks(encode, quantizer, block)
        )
    return module, _EncodeOnGPU(encode.encoder, quantizer)


class Decode(nn.Module):
    """Codes, int32 ``(N, h, w)``, to images, uint8 ``(N, H, W, C)``.

    Codes with levels are ``(N, h, w, l)`` or ``(N, t)``, of which at most ``levels``, an int64 scalar, are
    decoded.
    """

    def __init__(self, quantizer: Quantizer, decoder: nn.Module) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.decoder = decoder

    def forward(self, codes: Tensor, levels: Tensor | None = None) -> Tensor:
        return to_pixels(self.decoder(self.quantizer.embed(codes, levels))).permute(0, 2, 3, 1)
