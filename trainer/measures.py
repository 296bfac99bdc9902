"""What is reported of a model: reconstruction error, and the use of its codebook."""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.quantizer import perplexity, usage

# The error of a perfect image is taken as a hundredth of a level, which bounds its PSNR.
SMALLEST_MSE = (0.01 / 255) ** 2


def mean_squared_errors(images: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean squared error of each image, pixels in [0, 1]: two uint8 ``(N, H, W, C)`` to float64 ``(N,)``."""
    difference = (images.astype(np.float64) - others.astype(np.float64)) / 255
    return np.asarray(np.square(difference).mean(axis=tuple(range(1, difference.ndim))))


def peak_signal_to_noise_ratios(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """PSNR of each image in dB, 10 log10(1 / MSE), from errors in [0, 1]: at most 88.1, for equal images."""
    return -10 * np.log10(np.maximum(errors, SMALLEST_MSE))


@dataclass
class Evaluation:
    """Figures over a test set, gathered batch by batch.

    - ``mse``: mean squared error, pixels in [0, 1]
    - ``psnr``: mean over the images of their PSNR, in dB
    - ``perplexity``, ``usage``: of the codebook over the whole set, where codes are discrete
    """

    codebook_size: int | None
    errors: list[NDArray[np.float64]] = field(default_factory=list)
    counts: NDArray[np.int64] | None = None

    def add(
        self, images: NDArray[np.uint8], reconstructions: NDArray[np.uint8], codes: NDArray[np.generic]
    ) -> None:
        """Add a batch: two uint8 ``(N, H, W, C)`` and the codes between them."""
        self.errors.append(mean_squared_errors(images, reconstructions))
        if self.codebook_size is not None:
            counts = np.bincount(codes.ravel().astype(np.int64), minlength=self.codebook_size)
            self.counts = counts if self.counts is None else self.counts + counts

    def values(self) -> dict[str, float]:
        """The figures by name."""
        errors = np.concatenate(self.errors)
        values = {
            "mse": float(errors.mean()),
            "psnr": float(peak_signal_to_noise_ratios(errors).mean()),
        }
        if self.counts is not None:
            counts = torch.from_numpy(self.counts)
            values |= {"perplexity": perplexity(counts), "usage": usage(counts)}
        return values
