"""The tasks by which a network learns features from training images, and the learning.

Networks that learned without labels compare pictures nearly as people do (1801.03924, sec. 4.1). This one
learns to tell three things of a picture whose light and contrast vary:

- how it is turned, by 0, 90, 180 or 270 degrees (1803.07728)
- how it is damaged, in the ways of autoencoders, or that it is not (such a task: 2110.13266, sec. III)
- its class, where the data has classes
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.data.batches import Batch
from trainer.data.sources.pictures import OnProgress
from trainer.models.base import to_unit
from trainer.models.losses.feature_network import WIDTHS, FeatureNetwork

PEAK_RATE = 3e-3
LARGEST_NORM = 1.0
ROTATIONS = 4
# A larger square of a picture costs more and has the same damages.
LARGEST_SIDE = 128

Damage = Callable[[Tensor, float, torch.Generator], Tensor]


def learn(
    network: FeatureNetwork, batches: Iterator[Batch], steps: int, classes: int, report: OnProgress
) -> dict[str, float]:
    """Fit a network in ``steps`` batches, whose labels are of ``classes`` classes, 0 for none.

    All draws are the same in every call. Returns the accuracy of each task in the last tenth of the steps, by
    the name of the task.
    """
    device, generator = next(network.parameters()).device, torch.Generator().manual_seed(0)
    sizes = {"turn": ROTATIONS, "damage": len(DAMAGES), **({"class": classes} if classes else {})}
    layers = nn.ModuleDict({thing: nn.Linear(sum(WIDTHS), size) for thing, size in sizes.items()}).to(device)
    weights = [*network.parameters(), *layers.parameters()]
    optimizer = torch.optim.AdamW(weights, PEAK_RATE)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps)
    right: dict[str, list[Tensor]] = {thing: [] for thing in sizes}
    for step, batch in enumerate(batches, start=1):
        pictures, truth = task(batch, generator)
        # Of all layers, so that each learns.
        pooled = torch.cat([features.mean(dim=(2, 3)) for features in network(pictures)], dim=1)
        logits = {thing: layers[thing](pooled) for thing in sizes}
        losses = [F.cross_entropy(logits[thing], truth[thing]) for thing in sizes]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        nn.utils.clip_grad_norm_(weights, LARGEST_NORM)
        optimizer.step()
        rate.step()
        if step > 0.9 * steps:
            for thing in sizes:
                right[thing].append((logits[thing].argmax(dim=1) == truth[thing]).float().mean())
        report(step, steps)
    return {thing: float(torch.stack(shares).mean()) for thing, shares in right.items()}


def task(batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """Pictures, float32 ``(B, C, S, S)`` around [-1, 1], and the indices of each thing, int64 ``(B,)``.

    Each picture is the same square of an image, of another light and contrast, damaged, and turned.
    """
    device, count = batch.images.device, len(batch)
    height, width = batch.images.shape[2:]
    side = min(height, width, LARGEST_SIDE)
    top, left = (int(torch.randint(size - side + 1, (), generator=generator)) for size in (height, width))
    contrast, light = torch.rand(2, count, 1, 1, 1, generator=generator).to(device)
    pictures = to_unit(batch.images[:, :, top : top + side, left : left + side])
    pictures = pictures * (0.6 + 0.4 * contrast) + 0.4 * (light - 0.5)
    turns = torch.randint(ROTATIONS, (count,), generator=generator)
    damages = torch.randint(len(DAMAGES), (count,), generator=generator)
    strengths = torch.rand(count, generator=generator).tolist()
    made = [
        torch.rot90(DAMAGES[damage](picture[None], strength, generator), turn, dims=(2, 3))
        for picture, damage, strength, turn in zip(
            pictures, damages.tolist(), strengths, turns.tolist(), strict=True
        )
    ]
    truth = {"turn": turns.to(device), "damage": damages.to(device)}
    if batch.labels is not None:
        truth["class"] = batch.labels
    return torch.cat(made).contiguous(memory_format=torch.channels_last), truth


def intact(picture: Tensor, _strength: float, _generator: torch.Generator) -> Tensor:
    """The picture, float32 ``(1, C, S, S)``, as the others take and give it; ``strength`` is in [0, 1]."""
    return picture


def blurred(picture: Tensor, strength: float, _generator: torch.Generator) -> Tensor:
    """Blurred by a Gaussian with a standard deviation of 0.5 to 2 pixels."""
    channels, deviation = picture.shape[1], 0.5 + 1.5 * strength
    places = torch.arange(-3, 4, device=picture.device)
    row = (-places.square() / (2 * deviation**2)).exp()
    window = torch.outer(row, row) / row.sum().square()
    padded = F.pad(picture, (3, 3, 3, 3), mode="replicate")
    return F.conv2d(padded, window.expand(channels, 1, -1, -1), groups=channels)


def coarse(picture: Tensor, strength: float, _generator: torch.Generator) -> Tensor:
    """Mixed with its blocks of 2 x 2 pixels of one colour."""
    blocks = F.interpolate(F.avg_pool2d(picture, 2, ceil_mode=True), size=picture.shape[2:], mode="nearest")
    return picture.lerp(blocks, 0.5 + 0.5 * strength)


def noisy(picture: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """With noise of a standard deviation of 0.03 to 0.2."""
    noise = torch.randn(picture.shape, generator=generator).to(picture.device)
    return picture + (0.03 + 0.17 * strength) * noise


def crosshatched(picture: Tensor, strength: float, _generator: torch.Generator) -> Tensor:
    """With every other pixel brighter by 0.03 to 0.2, the others darker: as transposed convolutions do."""
    rows, columns = (torch.arange(size, device=picture.device) for size in picture.shape[2:])
    signs = (rows[:, None] + columns) % 2 * 2 - 1
    return picture + (0.03 + 0.17 * strength) * signs


DAMAGES: tuple[Damage, ...] = (intact, blurred, coarse, noisy, crosshatched)
