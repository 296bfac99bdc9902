"""Latents of diffusers to codes of a model and back.

The codes of a model are a grid, float32 ``(N, h, w, c)``, as its encoder gives them. diffusers has the
channels first, ``(N, c, h, w)``, and scales: ``latents = (codes - shift) * factor``. Flux packs its latents:
the four cells of each 2 x 2 square are one token of a sequence, ``(N, h / 2 * w / 2, 4 * c)``.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.contract.manifest import CodesSpec
from service.errors import BadTensor, UnknownOperation
from service.models.model import ServedModel

Latents = NDArray[np.float32]

# The side of the squares of cells that Flux packs.
_SIDE = 2


class Scale(NamedTuple):
    """How latents follow from codes: ``(codes - shift) * factor``."""

    factor: float = 1.0
    shift: float = 0.0

    def unscaled(self, latents: Latents) -> Latents:
        """The codes of some latents."""
        if self == Scale():
            return latents
        # The result may be infinite: the caller checks that codes are finite.
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            return latents / np.float32(self.factor) + np.float32(self.shift)

    def scaled(self, codes: Latents) -> Latents:
        """The latents of some codes."""
        if self == Scale():
            return codes
        with np.errstate(over="ignore"):
            return (codes - np.float32(self.shift)) * np.float32(self.factor)


def scale_of(
    model: ServedModel, factor: float | None, shift: float | None, *, defaults: bool = False
) -> Scale:
    """The scale of a request; with ``defaults`` the manifest has what the request omits.

    Without a scaling in the manifest, latents are codes that are not scaled.
    """
    scaling = model.manifest.codes.scaling if defaults else None
    unset = Scale() if scaling is None else Scale(scaling.factor, scaling.shift)
    return Scale(unset.factor if factor is None else factor, unset.shift if shift is None else shift)


def check_latents(model: ServedModel) -> CodesSpec:
    """The codes of a model that has latents. Raises UnknownOperation for any other."""
    codes = model.manifest.codes
    if not codes.continuous_grid or codes.stride is None:
        what = "discrete codes" if codes.dtype == "int32" else f"codes of the shape {list(codes.shape)}"
        raise UnknownOperation(
            f"model {model.manifest.name!r} has {what}, and diffusers has latents, grids of continuous codes "
            "[h, w, c]; use /encode and /decode",
            given=model.manifest.name,
        )
    return codes


def to_grids(latents: Latents, size: tuple[int, int] | None, codes: CodesSpec) -> Latents:
    """Latents ``(N, c, h, w)``, or packed ones of images of ``size``, (height, width), as ``(N, h, w, c)``.

    Raises BadTensor for another shape, another number of channels, or packed latents without a size.
    """
    channels, given = codes.shape[2], list(latents.shape)
    if latents.ndim == 3:
        if size is None:
            detail = f"latents of the shape {given} are packed, and need height and width, those of the image"
            raise BadTensor(detail, given=given)
        return _unpacked(latents, size, codes)
    if latents.ndim != 4 or latents.shape[1] != channels:
        detail = (
            f"the latents have the shape {given}; they are [n, {channels}, h, w], or packed "
            f"[n, h * w / 4, {4 * channels}] with height and width"
        )
        raise BadTensor(detail, given=given, allowed=[None, channels, None, None])
    return np.ascontiguousarray(latents.transpose(0, 2, 3, 1))


def to_latents(grids: Latents) -> Latents:
    """Codes ``(N, h, w, c)`` as ``(N, c, h, w)``."""
    return np.ascontiguousarray(grids.transpose(0, 3, 1, 2))


def _unpacked(latents: Latents, size: Sequence[int], codes: CodesSpec) -> Latents:
    """Packed latents as ``(N, h, w, c)``. The sides of the grid are even, so some pixels may be cut off."""
    channels, stride = codes.shape[2], codes.stride or 1
    rows, columns = (side // (stride * _SIDE) for side in size)
    wanted = [len(latents), rows * columns, channels * _SIDE * _SIDE]
    if list(latents.shape) != wanted:
        detail = (
            f"packed latents of the shape {list(latents.shape)}; for an image of {size[0]} x {size[1]} "
            f"pixels (height x width) they are {wanted}"
        )
        raise BadTensor(detail, given=list(latents.shape), allowed=wanted)
    squares = latents.reshape(len(latents), rows, columns, channels, _SIDE, _SIDE)
    return np.ascontiguousarray(
        squares.transpose(0, 1, 4, 2, 5, 3).reshape(len(latents), rows * _SIDE, columns * _SIDE, channels)
    )
