"""Priors so small that all that they can draw may be counted."""

import math
from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor

from trainer.models.code_prior.network import CodePrior, Ordered


def prior(size: int = 5, grid: tuple[int, ...] = (2, 3), classes: int = 3, *, blocks: int = 2) -> CodePrior:
    """A prior of strong opinions, as a trained one is: each code, place and class changes what it expects."""
    torch.manual_seed(0)
    made = CodePrior(size, grid, classes, width=16, blocks=blocks, heads=2, dropout=0)
    for parameter in made.parameters():
        parameter.detach().add_(0.3 * torch.randn_like(parameter))
    return made.eval().requires_grad_(False)


def of_logits(logits: Tensor, grid: tuple[int, int] = (1, 1)) -> CodePrior:
    """A prior that has the same logits, float ``(K,)``, for every code of every image."""
    made = prior(len(logits), grid, classes=0)
    made.head.weight.zero_()
    made.head.bias.copy_(logits)
    return made


def codes_of(network: CodePrior, count: int, seed: int = 0) -> Tensor:
    """Random codes, int64 ``(count, h, w)``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(network.size, (count, *network.grid), generator=generator)


def labels_of(network: CodePrior, label: int | None, count: int) -> Tensor:
    return torch.full((count,), network.no_label if label is None else label)


def every(size: int, codes: Tensor, mask: Tensor) -> Tensor:
    """All grids that agree with ``codes`` beside the mask, both ``(h, w)``: int64 ``(size^masked, h, w)``."""
    drawn = torch.tensor(list(product(range(size), repeat=int(mask.sum()))), dtype=torch.int64)
    grids = codes.repeat(len(drawn), 1, 1)
    grids[:, mask] = drawn
    return grids


def masks(grid: tuple[int, int]) -> Iterator[Tensor]:
    """Every mask of a grid, bool ``(h, w)``."""
    for cells in product([False, True], repeat=math.prod(grid)):
        yield torch.tensor(cells).view(grid)


def probabilities(network: CodePrior, grids: Tensor, mask: Tensor, label: int | None) -> Tensor:
    """How probable the codes under the mask, ``(h, w)``, are given the others: for each of the grids."""
    ordered = Ordered.of(mask.expand(len(grids), -1, -1))
    nats = network(grids, labels_of(network, label, len(grids)), ordered)
    return (nats * ordered.masked).sum(dim=1).neg().exp()
