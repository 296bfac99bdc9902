"""What the methods return. Codes and images are numpy arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from service.contract.manifest import CodesSpec, ImageSpec, Measures, Operation, Parity, PrecisionGraphs
from service.contract.measures import HalfPrecision, Precision

Codes = NDArray[Any]
Images = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """Reconstructed images, and their distance from the pictures as the model saw them.

    - ``images``: uint8 ``(N, H, W, C)``
    - ``mse``: float64 ``(N,)``, of pixels in [0, 1]
    - ``psnr``: float64 ``(N,)``, in dB; infinite if there is no difference
    """

    images: Images
    mse: NDArray[np.float64]
    psnr: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Samples:
    """Sampled images, and all that is needed to get them again.

    - ``images``: uint8 ``(N, H, W, C)``
    - ``codes``: ``(N, *shape)``, or None if the method gives images alone
    - ``labels``: int64 ``(N,)``, the index of each class, or None for no classes
    - ``mask``: bool ``(N, *shape)``, True where a code was sampled, or None without a completion
    - ``states``: the states of each chain, ``(N, S, *shape)``, and ``state_images``, their images uint8
      ``(N, S, H, W, C)``, or None without the parameter ``every``
    - ``figures``: float32 ``(N,)`` by name, such as ``acceptance_rate``; NaN if it is no finite number
    - ``method``, ``seed`` and ``parameters``: how they were sampled
    """

    images: Images
    codes: Codes | None
    labels: NDArray[np.int64] | None
    mask: NDArray[np.bool_] | None
    states: Codes | None
    state_images: Images | None
    figures: Mapping[str, NDArray[np.float32]]
    method: str
    seed: int
    parameters: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Scores:
    """How likely a model finds images.

    - ``figures``: float32 ``(N,)`` by name, in nats, such as ``elbo`` and ``nll``; NaN if it is no finite
      number
    - ``seed`` and ``parameters``: of the draws
    """

    figures: Mapping[str, NDArray[np.float32]]
    seed: int
    parameters: Mapping[str, float]


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True)


class ModelSummary(_Document):
    """A model in the list of models; ``default`` says whether it is taken if none is named.

    ``precision`` is the one in which it runs, and ``precisions`` are those it has graphs in.
    """

    name: str
    version: str
    kind: str
    default: bool
    image: ImageSpec
    codes: CodesSpec
    operations: tuple[str, ...]
    precision: Precision = "32"
    precisions: tuple[Precision, ...] = ("32",)


class ModelInfo(_Document):
    """A model in full: its inputs and outputs, its operations with their parameters, and its metrics.

    ``codebook`` is the shape of the codebook. ``provider`` is where it runs, ``cpu`` or ``cuda``, and
    ``reason`` says why. ``precision`` is the one in which it runs; if it is not the one that was asked for,
    ``precision_reason`` says why. ``precisions`` are its graphs in half precision.
    """

    name: str
    version: str
    kind: str
    created: str
    git_revision: str | None
    seed: int
    provider: str
    reason: str
    image: ImageSpec
    codes: CodesSpec
    labels: tuple[str, ...] | None
    operations: dict[str, Operation]
    codebook: tuple[int, ...] | None
    measures: tuple[Measures, ...]
    parity: Parity | None
    precision: Precision = "32"
    precision_reason: str | None = None
    precisions: dict[HalfPrecision, PrecisionGraphs] = Field(default={})


def joined_reconstructions(parts: Sequence[Reconstruction]) -> Reconstruction:
    """The results of the parts of a batch as one."""
    if len(parts) == 1:
        return parts[0]
    return Reconstruction(*(joined([getattr(part, name) for part in parts]) for name in _RECONSTRUCTION))


def joined_samples(parts: Sequence[Samples]) -> Samples:
    """The samples of the parts of a batch as one; the parts have one seed."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    more: dict[str, Any] = {
        name: joined([getattr(part, name) for part in parts])
        for name in _SAMPLES
        if getattr(first, name) is not None
    }
    figures = joined_figures([part.figures for part in parts])
    return replace(first, figures=figures, **more)


def joined_figures(parts: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """The figures of the parts of a batch as one."""
    return {name: joined([part[name] for part in parts]) for name in parts[0]}


_RECONSTRUCTION = ("images", "mse", "psnr")
_SAMPLES = ("images", "codes", "labels", "mask", "states", "state_images")


def joined(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """The arrays of the parts of a batch as one."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
