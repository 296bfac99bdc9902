"""How well images are kept: errors of the reconstructions, and the use of the codes; and when that is poor.

A model is poor by what was measured of it:

- ``explained_variance`` under 0.5. The mean image alone has 0. Of the presets' models, vqvae-mnist has 0.98,
  vae-mnist 0.94, ncp-mnist 0.93, and vlae-mnist, which is lossy on purpose, 0.74. On pictures in
  colour, 8 steps have -0.99 and 370 steps 0.89.
- ``usage`` under 10 % of the codes that the test images could use: below this, training warns of a collapse.
- ``bits`` as many as if each code were drawn alone, by how frequent it is: cells x log2(perplexity). Then the
  prior over the codes knows nothing of how codes go together, and its samples are noise.

It is unfinished by how long a stage was trained: under 1,400 steps. On MNIST, the error of a VQ-VAE after
1,404 steps is twice that after 14,040 (0.0024 and 0.0012). What is enough is a rule of thumb: the presets
train their models for 4,400 steps (vqvae-pictures, on 2,820 pictures) to 23,400 (vae-mnist), and second
stages for 1,848 or more.

How fast the loss falls at the end is no rule: the learning rate has fallen to 1 % by then, so the loss of 370
steps ends as flat as that of 14,040.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version

import numpy as np
import torch
from torch import Tensor

from service.contract.manifest import CodesSpec, ImageSpec, Measures
from trainer.evaluation.exported_model import Reconstructed, psnr
from trainer.models.base import to_shares
from trainer.models.quantizers import perplexity, usage

# SSIM looks through a Gaussian window of 11 x 11 pixels, MS-SSIM at five resolutions; in the lowest, a
# sixteenth, the window has to fit.
SSIM_WINDOW, MS_SSIM_SMALLEST = 11, 176
# A dimension or channel whose posterior mean varies less carries nothing (1509.00519, sec. 5).
ACTIVE_VARIANCE = 0.01

# By name: the smallest side of an image in pixels, and the function of torchmetrics.functional.image.
SIMILARITIES: Mapping[str, tuple[int, str]] = {
    "ssim": (SSIM_WINDOW, "structural_similarity_index_measure"),
    "ms_ssim": (MS_SSIM_SMALLEST, "multiscale_structural_similarity_index_measure"),
}

RECONSTRUCTIONS, TRAINING = "reconstructions", "training"
RFID = "rfid"
LEAST_EXPLAINED = 0.5
LEAST_USAGE = 0.1
FEW_STEPS, ENOUGH_STEPS = 1_400, 4_400
# In a row of TRAINING: ``steps`` of the model, ``prior_steps`` of a second stage.
STEPS = "steps"


def mean_squared_errors(images: Tensor, others: Tensor) -> Tensor:
    """Mean squared error of each image, pixels in [0, 1]: two uint8 ``(N, H, W, C)`` to float64 ``(N,)``."""
    return ((images.double() - others.double()) / 255).square().flatten(1).mean(dim=1)


@dataclass
class Reconstructions:
    """Metrics over a test set, added batch by batch.

    - ``mse``: mean squared error, pixels in [0, 1]
    - ``psnr``: mean over the images of their PSNR, in dB
    - ``explained_variance``: 1 - mse / the error of the mean image; of two images or more
    - ``ssim``: mean over the images of their structural similarity, at most 1; of images it has a window for
    - ``ms_ssim``: the same at five resolutions; of images of at least 176 x 176 pixels, as the window has to
      fit into the lowest
    - ``perplexity``, ``usage``: of the codebook over the whole set, where codes are discrete; of residual
      codes the geometric mean and the mean over the levels
    - ``perplexity_4x4``: of the level with this grid, where levels have grids of their own
    - ``active_units``: dimensions of a vector, or channels of a grid, that carry something, where codes are a
      posterior's mean
    """

    spec: CodesSpec
    errors: list[Tensor] = field(default_factory=list)
    similarities: dict[str, list[Tensor]] = field(default_factory=dict)
    counts: Tensor | None = None
    units: "Spread | None" = None
    # Of the images' pixels, in order.
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    # Of each pixel, in [0, 1], over the images: float64 (H, W, C).
    sums: Tensor | float = 0.0
    squares: float = 0.0

    def add(self, batch: Reconstructed) -> None:
        """Add a batch."""
        # Takes as long to import as torch, so a start of the trainer does not wait for it.
        from torchmetrics.functional import image

        self.digest.update(np.ascontiguousarray(batch.images.numpy()).data)
        self.errors.append(mean_squared_errors(batch.images, batch.decoded))
        pixels = batch.images.double() / 255
        self.sums, self.squares = self.sums + pixels.sum(dim=0), self.squares + float(pixels.square().sum())
        ours, theirs = (to_shares(rows.permute(0, 3, 1, 2)) for rows in (batch.decoded, batch.images))
        for name, (smallest, function) in SIMILARITIES.items():
            if min(ours.shape[2:]) >= smallest:
                found = getattr(image, function)(ours, theirs, data_range=1.0, reduction="none")
                self.similarities.setdefault(name, []).append(found.double().reshape(-1))
        if self.spec.codebook_size is None:
            self.units = self.units or Spread()
            self.units.add(batch.codes.reshape(-1, batch.codes.shape[-1]).double())
        else:
            counts = uses(batch.codes, self.spec)
            self.counts = counts if self.counts is None else self.counts + counts

    def values(self) -> dict[str, float]:
        """The metrics by name."""
        errors = torch.cat(self.errors)
        values = {"mse": float(errors.mean()), "psnr": float(psnr(errors).mean())}
        variance = self._variance(len(errors))
        if variance > 0:
            values["explained_variance"] = 1 - values["mse"] / variance
        values |= {name: float(torch.cat(found).mean()) for name, found in self.similarities.items()}
        if self.counts is not None:
            grids = self.spec.level_grids or ()
            counts = self.counts.sum(dim=0) if grids else self.counts
            values |= {"perplexity": perplexity(counts), "usage": usage(counts)}
            by_level = zip(grids, self.counts, strict=False)
            values |= {f"perplexity_{side}x{side}": perplexity(own) for side, own in by_level}
        if self.units is not None:
            values["active_units"] = float((self.units.variances() > ACTIVE_VARIANCE).sum())
        return values

    def settings(self, image: ImageSpec) -> dict[str, str | int]:
        """How this was measured, and on which images, which were made to fit ``image``."""
        return {
            "images": sum(map(len, self.errors)),
            "size": f"{image.height}x{image.width}x{image.channels}",
            "fit": image.fit,
            "filter": image.filter,
            "background": image.background,
            "pixels": self.digest.hexdigest(),
            "metrics": ", ".join(sorted(self.values())),
            "torchmetrics": version("torchmetrics"),
        }

    def _variance(self, count: int) -> float:
        """What the error of the mean image is expected to be on such images; 0 if they are all alike."""
        sums = torch.as_tensor(self.sums)
        total = self.squares - float(sums.square().sum()) / count
        return total / sums.numel() / (count - 1) if count > 1 else 0.0


def uses(codes: Tensor, spec: CodesSpec) -> Tensor:
    """How often each level uses each code: discrete codes ``(N, *shape)`` to int64 ``(L, K)``."""
    levels, size = spec.levels or 1, spec.codebook_size or 0
    lengths = torch.tensor(spec.level_ends or (1,)).diff(prepend=torch.zeros(1, dtype=torch.long))
    offsets = size * torch.arange(levels).repeat_interleave(lengths)
    return torch.bincount((codes.long() + offsets).flatten(), minlength=levels * size).view(levels, size)


@dataclass
class Spread:
    """Mean and variance of the columns of rows, float64 ``(n, d)``, added part by part.

    ``shift``, the mean of the first part, is subtracted from rows before they are summed, which keeps digits.
    """

    count: int = 0
    shift: Tensor | None = None
    sums: Tensor | float = 0.0
    squares: Tensor | float = 0.0

    def add(self, rows: Tensor) -> None:
        """Add rows."""
        if self.shift is None:
            self.shift = rows.mean(dim=0)
        moved = rows - self.shift
        self.count += len(rows)
        self.sums, self.squares = self.sums + moved.sum(dim=0), self.squares + moved.square().sum(dim=0)

    def means(self) -> Tensor:
        """Float64 ``(d,)``. Raises TypeError if there are no rows."""
        if self.shift is None:
            raise TypeError("there are no rows")
        return self.shift + torch.as_tensor(self.sums) / self.count

    def variances(self) -> Tensor:
        """Float64 ``(d,)``; NaN for a single row."""
        sums = torch.as_tensor(self.sums)
        return (self.squares - sums.square() / self.count) / (self.count - 1)


def protocol_of(settings: Mapping[str, str | int]) -> str:
    """The id of a protocol: 12 hex digits over its settings, in any order."""
    text = json.dumps(dict(sorted(settings.items())), separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def shortcomings(measures: Iterable[Measures], codes: CodesSpec) -> str | None:
    """What is poor or unfinished about a model by its rows, in a sentence; None if nothing is.

    ``codes`` are those of the model. See the module for the rules.
    """
    poor: list[str] = []
    brief: list[str] = []
    for row in measures:
        if row.of == RECONSTRUCTIONS:
            poor += _poor(row, codes)
        elif row.of == TRAINING:
            brief += [
                f"{_stage(name)}was trained for {steps:,.0f} steps, and fewer than {FEW_STEPS:,} are few"
                for name, steps in row.values.items()
                if name.endswith(STEPS) and steps < FEW_STEPS
            ]
    if not poor and not brief:
        return None
    return f"This model is {'poor' if poor else 'unfinished'}: {'; '.join(poor + brief)}."


def explained_variance(measures: Iterable[Measures]) -> float | None:
    """The share of the variance that reconstructions keep; None if it was not measured.

    At 0 or less, the mean image is as near to the test images as the reconstructions are.
    """
    found = (row.values.get("explained_variance") for row in measures if row.of == RECONSTRUCTIONS)
    return next(found, None)


def _poor(row: Measures, codes: CodesSpec) -> list[str]:
    values, found = row.values, []
    explained = values.get("explained_variance", 1.0)
    if explained <= 0:
        found.append("its reconstructions are no nearer to the test images than the mean image is")
    elif explained < LEAST_EXPLAINED:
        found.append(
            f"its reconstructions keep {explained:.0%} of the variance of the test images, and less than "
            f"{LEAST_EXPLAINED:.0%} is poor"
        )
    if codes.codebook_size is None:
        return found
    cells = math.prod(codes.shape)
    used = values.get("usage", 1.0) * codes.codebook_size / min(codes.codebook_size, cells * row.images)
    if used < LEAST_USAGE:
        found.append(f"{used:.1%} of its codes are in use, and less than {LEAST_USAGE:.0%} is a collapse")
    alone = cells * math.log2(values.get("perplexity", codes.codebook_size))
    if values.get("bits", 0.0) >= alone > 0:
        found.append(
            f"its prior needs {values['bits']:,.0f} bits an image, where codes drawn each alone need "
            f"{alone:,.0f}: its samples are noise"
        )
    return found


def _stage(name: str) -> str:
    """The subject of a sentence: the model, or the stage that ``prior_steps`` is of."""
    stage = name.removesuffix(STEPS).rstrip("_")
    return f"its {stage} " if stage else "it "
