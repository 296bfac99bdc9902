"""Distances of pictures that need no network: MS-SSIM and the focal frequency loss.

Each takes reconstructions and targets, float32 ``(B, C, H, W)`` in [-1, 1], and gives a scalar, the mean over
the batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# Of the five resolutions, from the finest (Wang et al., 2003, sec. 3.2).
EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
# The window of SSIM in pixels, a Gaussian, and its constants for pixels in [0, 1] (Wang et al., 2004).
WINDOW, DEVIATION = 11, 1.5
LUMINANCE, CONTRAST = 0.01**2, 0.03**2


def ms_ssim_loss(reconstruction: Tensor, target: Tensor) -> Tensor:
    """1 - MS-SSIM (Wang et al., 2003, eq. 7; as a loss 1511.08861, eq. 8): 0 for equal pictures, at most 1.

    Pictures of at least 176 pixels have five resolutions. Smaller ones have as many as the window fits into,
    from the finest, whose exponents are scaled to the same sum. Raises ValueError for a side under 11 pixels.

    torchmetrics has the same with a window in two dimensions at once, and a border that is mirrored: with its
    gradient that takes seven times as long on a CPU (347 and 50 ms for 16 pictures of 128x128).
    """
    exponents = EXPONENTS[: resolutions(min(target.shape[2:]))]
    if not exponents:
        raise ValueError(f"images of {min(target.shape[2:])} pixels are smaller than the window of {WINDOW}")
    # Variances are small differences of large numbers.
    with torch.autocast(target.device.type, enabled=False):
        ours, theirs = (reconstruction + 1) / 2, (target + 1) / 2
        similarity = torch.ones((), device=target.device)
        for resolution, exponent in enumerate(exponents, start=1):
            luminance, contrast = _similarities(ours, theirs)
            if resolution == len(exponents):
                contrast = luminance * contrast
            # A negative similarity has no such power.
            mean = contrast.mean(dim=(1, 2, 3)).relu()
            similarity = similarity * mean ** (exponent / sum(exponents))
            ours, theirs = F.avg_pool2d(ours, 2), F.avg_pool2d(theirs, 2)
        return 1 - similarity.mean()


def resolutions(side: int) -> int:
    """The number of resolutions for pictures whose shorter side has ``side`` pixels."""
    return sum(side >> halvings >= WINDOW for halvings in range(len(EXPONENTS)))


def _similarities(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Of luminance, and of contrast and structure, at each place of the window: two like ``ours``."""
    together = torch.cat([ours, theirs, ours.square() + theirs.square(), ours * theirs], dim=1)
    means, others, squares, products = _windowed(together).chunk(4, dim=1)
    both, product = means.square() + others.square(), means * others
    luminance = (2 * product + LUMINANCE) / (both + LUMINANCE)
    return luminance, (2 * (products - product) + CONTRAST) / (squares - both + CONTRAST)


def _windowed(x: Tensor) -> Tensor:
    """Means under the window: ``(B, C, H, W)`` to ``(B, C, H - 10, W - 10)``."""
    channels, places = x.shape[1], torch.arange(WINDOW, device=x.device) - WINDOW // 2
    row = torch.softmax(-places.square() / (2 * DEVIATION**2), dim=0).expand(channels, 1, 1, WINDOW)
    return F.conv2d(F.conv2d(x, row, groups=channels), row.transpose(2, 3), groups=channels)


def frequency_loss(reconstruction: Tensor, target: Tensor) -> Tensor:
    """The focal frequency loss (2012.12821, eq. 8 and 9, alpha 1), of pixels in [0, 1].

    The squared error of each frequency, weighed by its share of the largest error of any frequency in the
    same channel of the same picture; the weights have no gradient. With weights of 1 it would be the mean
    squared error.
    """
    # In float32 under autocast too.
    error = torch.fft.fft2((reconstruction - target) / 2, norm="ortho")
    squares = error.real.square() + error.imag.square()
    sizes = squares.detach().sqrt()
    # A picture without an error has the weights 0.
    weights = sizes / sizes.amax(dim=(2, 3), keepdim=True).clamp(min=torch.finfo(sizes.dtype).tiny)
    return (weights * squares).mean()
