"""Random augmentation of training images, a batch at a time on its device."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.data.distributed import uniform


def flipped(images: Tensor) -> Tensor:
    """Images ``(B, C, H, W)``, about half of them mirrored left to right."""
    chosen = uniform(len(images), device=images.device) < 0.5
    return torch.where(chosen[:, None, None, None], images.flip(3), images)


def cropped(images: Tensor, size: int) -> Tensor:
    """A square of ``size`` pixels of each image: ``(B, C, H, W)`` to ``(B, C, size, size)``.

    Of two at random places it is the one whose pixels vary more: much of a picture may be background. Images
    that are no larger stay whole.
    """
    if size >= min(images.shape[2:]):
        return images
    first, second = (_squares(images, size) for _ in range(2))
    variances = [squares.float().var(dim=(2, 3)).sum(dim=1) for squares in (first, second)]
    return torch.where((variances[0] >= variances[1])[:, None, None, None], first, second)


def _squares(images: Tensor, size: int) -> Tensor:
    count, channels, height, width = images.shape
    span = torch.arange(size, device=images.device)
    places = uniform(count, 2, device=images.device)
    rows, columns = (
        (place * (length - size + 1)).long()[:, None] + span
        for place, length in zip(places.T, (height, width), strict=True)
    )
    return images.gather(2, rows[:, None, :, None].expand(count, channels, size, width)).gather(
        3, columns[:, None, None, :].expand(count, channels, size, size)
    )


def rotated(images: Tensor, degrees: float, background: int) -> Tensor:
    """Images, uint8 ``(B, C, H, W)``, each turned about its centre by up to ``degrees`` either way.

    Pixels from outside the image get the grey level ``background``, 0 to 255.
    """
    angles = (uniform(len(images), device=images.device) * 2 - 1) * math.radians(degrees)
    cosines, sines, zeros = angles.cos(), angles.sin(), torch.zeros_like(angles)
    height, width = images.shape[2:]
    # In the units of affine_grid a pixel is as wide as it is high only if the image is square.
    turns = torch.stack(
        [
            torch.stack([cosines, sines * (height / width), zeros], dim=1),
            torch.stack([-sines * (width / height), cosines, zeros], dim=1),
        ],
        dim=1,
    )
    grid = F.affine_grid(turns, list(images.shape), align_corners=False)
    # Outside there are zeros, which become the background.
    turned = F.grid_sample(images.float() - background, grid, align_corners=False) + background
    return turned.round().clamp(0, 255).byte()
