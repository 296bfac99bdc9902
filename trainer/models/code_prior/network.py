"""A prior over the codes of a VQ-VAE: a causal transformer, from which a VQ-VAE generates images.

The codes of an image are predicted one after the other, each from those before it, as in 1711.00937, section
3.3, with a transformer instead of the PixelCNN. The order is not fixed: the codes that are given come
first, the masked ones after them, both row by row. So one network draws whole images (nothing is given) and
completes parts of them (the masked codes see all that are kept, also those below and to the right). A network
trained on further orders (``code_prior.orders``) draws several codes at a time.

                      input at step t                          target at step t
    the code at order[t-1], the places order[t-1]          the code at order[t]
    and order[t], the class

The class is dropped at random in training; without it the prior is unconditional, and the two together are
classifier-free guidance (2207.12598).
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.data.distributed import uniform
from trainer.models.layers.transformer import CausalTransformer

# Share of the training images that are to be drawn whole; of the others, a part is given.
WHOLE = 0.5
TABLE_STD = 0.02


class Ordered(NamedTuple):
    """A grid of ``T`` codes as a sequence; the levels of a cell follow each other.

    - ``order``: int64 ``(B, T)``, the place in the grid of each position of the sequence
    - ``masked``: bool ``(B, T)``, whether the code there is to be drawn
    """

    order: Tensor
    masked: Tensor

    @classmethod
    def of(cls, mask: Tensor, ranks: Tensor | None = None) -> "Ordered":
        """The given codes first, the masked ones after them: ``mask`` is bool ``(B, *grid)``.

        Both are in the order of ``ranks``, int64 ``(T,)``, which all differ; row by row without.
        """
        flat = mask.flatten(1)
        places = flat.shape[1]
        if ranks is None:
            ranks = torch.arange(places, device=mask.device)
        # All keys differ, so that the order does not depend on how ties are sorted.
        order = (flat.long() * places + ranks).argsort(dim=1)
        return cls(order, flat.gather(1, order))

    def replaced(self, chosen: Tensor, other: "Ordered") -> "Ordered":
        """The rows of ``other`` where ``chosen``, bool ``(B, 1)``, and those of this."""
        return Ordered(
            torch.where(chosen, other.order, self.order), torch.where(chosen, other.masked, self.masked)
        )


class _TiedCodes(nn.Module):
    """The rows of the head as the embeddings of the codes (1608.05859), and one of no code, ``size``."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        # No submodule: its tensors would be in the state twice.
        self._head = (head,)
        self.first = nn.Parameter(torch.randn(head.in_features) * TABLE_STD)

    def forward(self, codes: Tensor) -> Tensor:
        (head,) = self._head
        found = F.embedding(codes.clamp(max=head.out_features - 1), head.weight)
        return torch.where((codes == head.out_features)[..., None], self.first, found)


class CodePrior(nn.Module):
    """p(codes | class) over grids of codes.

    Args:
        size: number of codes, K.
        grid: height and width of the grid, in codes, and the number of levels if there are several; or the
            length of a sequence.
        classes: number of classes; 0 for an unconditional prior.
        width, blocks, heads, dropout: of the transformer.
        tied: whether one table has the codes that are read and those that are predicted.

    """

    def __init__(
        self,
        size: int,
        grid: tuple[int, ...],
        classes: int,
        *,
        width: int,
        blocks: int,
        heads: int,
        dropout: float,
        tied: bool = False,
    ) -> None:
        super().__init__()
        self.size = size
        self.grid = grid
        self.classes = classes
        places = math.prod(grid)
        # One more than there are: the code before the first, the place before the first, no class.
        self.code: nn.Embedding | _TiedCodes = nn.Embedding(size + 1, width)
        self.last_place = nn.Embedding(places + 1, width)
        self.next_place = nn.Embedding(places, width)
        self.label = nn.Embedding(classes + 1, width)
        self.transformer = CausalTransformer(width, blocks=blocks, heads=heads, dropout=dropout)
        self.head = nn.Linear(width, size)
        for table in (self.code, self.last_place, self.next_place, self.label, self.head):
            nn.init.normal_(table.weight, std=TABLE_STD)
        nn.init.zeros_(self.head.bias)
        if tied:
            self.code = _TiedCodes(self.head)

    @property
    def no_label(self) -> int:
        """The label of an unconditional draw."""
        return self.classes

    def forward(self, codes: Tensor, labels: Tensor, ordered: Ordered) -> Tensor:
        """Cross-entropy of each code in nats, in the given order: float32 ``(B, T)``.

        ``codes`` is int64 ``(B, *grid)``, ``labels`` int64 ``(B,)``, ``no_label`` for none.
        """
        sequence = codes.flatten(1).gather(1, ordered.order)
        before = F.pad(sequence[:, :-1], (1, 0), value=self.size)
        hidden = self.transformer(self.code(before) + self.context(ordered.order, labels))
        logits = self.head(hidden).float()
        return F.cross_entropy(logits.transpose(1, 2), sequence, reduction="none")

    def context(self, order: Tensor, labels: Tensor) -> Tensor:
        """The embedding of each position without its code: the places and the class.

        ``order`` is int64 ``(B, T)``, ``labels`` int64 ``(B,)``; the result is float ``(B, T, width)``.
        """
        last = torch.cat([torch.full_like(order[:, :1], order.shape[1]), order[:, :-1]], dim=1)
        return self.last_place(last) + self.next_place(order) + self.label(labels)[:, None]


def random_masks(count: int, grid: tuple[int, ...], device: torch.device) -> Tensor:
    """Masks to train on, bool ``(count, *grid)``: all of the grid for a share of ``WHOLE``.

    Of the others half are a rectangle of all levels, or a part of a sequence, and half are scattered codes,
    of which there may be none at all.
    """
    if len(grid) == 1:
        return random_masks(count, (*grid, 1), device).flatten(1)
    height, width, *levels = grid
    draw = uniform(count, 6, device=device)
    spans = []
    for length, ends in ((height, draw[:, 0:2]), (width, draw[:, 2:4])):
        first, last = (ends * length).long().sort(dim=1).values.unbind(dim=1)
        places = torch.arange(length, device=device)
        spans.append((places >= first[:, None]) & (places <= last[:, None]))
    rectangle = (spans[0][:, :, None] & spans[1][:, None, :]).view(count, height, width, *(1 for _ in levels))
    each = (count, *(1 for _ in grid))
    scattered = uniform(count, *grid, device=device) < draw[:, 4].view(each)
    kind = draw[:, 5].view(each)
    return (kind < WHOLE) | torch.where(kind < (1 + WHOLE) / 2, rectangle, scattered)
