"""How well images are kept: errors of the reconstructions, and the use of the codes."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from service.contract.manifest import CodesSpec
from trainer.evaluation.exported_model import Reconstructed
from trainer.models.base import to_shares
from trainer.models.quantizers import perplexity, usage

# The error of a perfect image is taken as a hundredth of a level, which bounds its PSNR.
SMALLEST_MSE = (0.01 / 255) ** 2
# SSIM looks through a Gaussian window of 11 x 11 pixels.
SSIM_WINDOW = 11
# A dimension whose posterior mean varies less carries nothing (1509.00519, sec. 5).
ACTIVE_VARIANCE = 0.01


def mean_squared_errors(images: Tensor, others: Tensor) -> Tensor:
    """Mean squared error of each image, pixels in [0, 1]: two uint8 ``(N, H, W, C)`` to float64 ``(N,)``."""
    return ((images.double() - others.double()) / 255).square().flatten(1).mean(dim=1)


def peak_signal_to_noise_ratios(errors: Tensor) -> Tensor:
    """PSNR of each image in dB, 10 log10(1 / MSE), from errors in [0, 1]: at most 88.1, for equal images."""
    return -10 * errors.clamp(min=SMALLEST_MSE).log10()


@dataclass
class Reconstructions:
    """Metrics over a test set, added batch by batch.

    - ``mse``: mean squared error, pixels in [0, 1]
    - ``psnr``: mean over the images of their PSNR, in dB
    - ``ssim``: mean over the images of their structural similarity, at most 1; of images it has a window for
    - ``perplexity``, ``usage``: of the codebook over the whole set, where codes are discrete
    - ``active_units``: dimensions that carry something, where codes are a posterior's mean
    """

    spec: CodesSpec
    errors: list[Tensor] = field(default_factory=list)
    similarities: list[Tensor] = field(default_factory=list)
    counts: Tensor | None = None
    means: list[Tensor] = field(default_factory=list)

    def add(self, batch: Reconstructed) -> None:
        """Add a batch."""
        self.errors.append(mean_squared_errors(batch.images, batch.decoded))
        if min(batch.images.shape[1:3]) >= SSIM_WINDOW:
            ours, theirs = (to_shares(rows.permute(0, 3, 1, 2)) for rows in (batch.decoded, batch.images))
            similarity = structural_similarity_index_measure(ours, theirs, data_range=1.0, reduction="none")
            self.similarities.append(torch.as_tensor(similarity).double().reshape(-1))
        if self.spec.codebook_size is None:
            self.means.append(batch.codes.flatten(1))
        else:
            counts = torch.bincount(batch.codes.flatten().long(), minlength=self.spec.codebook_size)
            self.counts = counts if self.counts is None else self.counts + counts

    def values(self) -> dict[str, float]:
        """The metrics by name."""
        errors = torch.cat(self.errors)
        values = {"mse": float(errors.mean()), "psnr": float(peak_signal_to_noise_ratios(errors).mean())}
        if self.similarities:
            values["ssim"] = float(torch.cat(self.similarities).mean())
        if self.counts is not None:
            values |= {"perplexity": perplexity(self.counts), "usage": usage(self.counts)}
        if self.means:
            variances = torch.cat(self.means).double().var(dim=0)
            values["active_units"] = float((variances > ACTIVE_VARIANCE).sum())
        return values
