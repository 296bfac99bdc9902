"""A causal transformer that can be run over a whole sequence, or with a cache, by one or several positions.

Pre-norm blocks (2002.04745) with multi-query attention (1911.02150): all heads share one key and one value a
position, so the cache that a sampler carries from step to step is smaller by the number of heads.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.data.distributed import dropout

# Up to this many positions the plain products are faster than torch's fused kernel: at 49, on a CPU, a step
# of training took 0.29 s instead of 0.51.
SHORT = 256

# What is carried of a block: the keys and the values of the positions so far, each (B, T, width / heads).
Cache = tuple[Tensor, Tensor]


class Block(nn.Module):
    """Attention and a feed-forward layer of four times the width, each added to what came in.

    Dropout applies to what is added.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"a width of {width} is no multiple of {heads} heads")
        self.heads = heads
        self.head_width = width // heads
        self.attention_norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, width + 2 * self.head_width)
        self.join = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """``(B, T, width)`` to the same; no position sees a later one."""
        queries, keys, values = self._projected(x)
        batch, length, _ = queries.shape
        queries = queries.view(batch, length, self.heads, self.head_width).transpose(1, 2)
        attend = _attend_briefly if length <= SHORT else _attend
        return self._fed(x, attend(queries, keys, values).transpose(1, 2).reshape(x.shape))

    def step(
        self, x: Tensor, cache: Cache, place: tuple[Tensor, Tensor], unseen: Tensor
    ) -> tuple[Tensor, Cache]:
        """One position, ``(B, width)``, to the same and the cache with it.

        ``place`` is the row and the position of each, int64 ``(B,)``; ``unseen`` is float ``(T,)``, -inf at
        later positions.
        """
        queries, key, value = self._projected(x)
        keys = cache[0].index_put(place, key.to(cache[0].dtype))
        values = cache[1].index_put(place, value.to(cache[1].dtype))
        queries = queries.view(-1, self.heads, self.head_width) * self.head_width**-0.5
        weights = torch.softmax(queries @ keys.transpose(1, 2) + unseen, dim=-1)
        return self._fed(x, (weights @ values).reshape(x.shape)), (keys, values)

    def extend(
        self, x: Tensor, cache: Cache, place: tuple[Tensor, Tensor], unseen: Tensor
    ) -> tuple[Tensor, Cache]:
        """Several positions, ``(B, P, width)``, to the last ``A`` of them and the cache with all.

        ``place`` is the row ``(B, 1)`` and the positions ``(B, P)``, int64. ``unseen`` is float ``(B, A, S)``
        for the first ``S`` positions of the cache: -inf at each that one of the last ``A`` does not see.
        """
        asked = unseen.shape[1]
        queries, key, value = self._projected(x)
        keys = cache[0].index_put(place, key.to(cache[0].dtype))
        values = cache[1].index_put(place, value.to(cache[1].dtype))
        first = x.shape[1] - asked
        x, queries = x[:, first:], queries[:, first:]
        seen = unseen.shape[2]
        queries = queries.reshape(-1, asked * self.heads, self.head_width) * self.head_width**-0.5
        scores = (queries @ keys[:, :seen].transpose(1, 2)).view(-1, asked, self.heads, seen)
        weights = torch.softmax(scores + unseen[:, :, None], dim=-1).view(-1, asked * self.heads, seen)
        return self._fed(x, (weights @ values[:, :seen]).reshape(x.shape)), (keys, values)

    def _projected(self, x: Tensor) -> Sequence[Tensor]:
        sizes = [self.heads * self.head_width, self.head_width, self.head_width]
        return self.project(self.attention_norm(x)).split(sizes, dim=-1)

    def _fed(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + dropout(self.join(attended), self.dropout, self.training)
        widened = F.relu(self.widen(self.feed_norm(x)))
        return x + dropout(self.narrow(widened), self.dropout, self.training)


def _attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Causal attention of ``(B, heads, T, D)`` queries to ``(B, T, D)`` keys and values."""
    heads = queries.shape[1]
    keys, values = (part[:, None].expand(-1, heads, -1, -1) for part in (keys, values))
    return F.scaled_dot_product_attention(queries, keys, values, is_causal=True)


def _attend_briefly(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The same, with all weights in memory at once."""
    batch, heads, length, width = queries.shape
    unseen = torch.full((length, length), -torch.inf, device=keys.device, dtype=keys.dtype).triu(1)
    rows = (queries * width**-0.5).reshape(batch, heads * length, width)
    weights = torch.baddbmm(unseen.repeat(heads, 1), rows, keys.transpose(1, 2)).softmax(dim=-1)
    return (weights.to(values.dtype) @ values).view(queries.shape)


class CausalTransformer(nn.Module):
    """Blocks and a last norm: ``(B, T, width)`` to the same."""

    def __init__(self, width: int, *, blocks: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        for layer in self._layers:
            # Each block adds to the stream twice: the sum is to start as large as one of its terms.
            for last in (layer.join, layer.narrow):
                nn.init.normal_(last.weight, std=0.02 * (2 * blocks) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self._layers:
            x = layer(x)
        return self._normed(x)

    def caches(self, batch: int, length: int) -> list[Cache]:
        """Empty caches for ``length`` positions."""
        weight = self.norm.weight
        sizes = [(batch, length, layer.head_width) for layer in self._layers]
        return [(weight.new_zeros(size), weight.new_zeros(size)) for size in sizes]

    def step(
        self, x: Tensor, caches: Sequence[Cache], position: Tensor, rows: Tensor
    ) -> tuple[Tensor, list[Cache]]:
        """One position, ``(B, width)``, after those in the caches.

        ``position`` is an int64 scalar, and ``rows`` counts the batch, int64 ``(B,)`` from 0: as an input,
        since the exporter would take its length for a constant. Gives what ``forward`` has at this position,
        and the caches with it.
        """
        places = torch.arange(caches[0][0].shape[1], device=x.device)
        unseen = torch.where(places <= position, 0.0, -torch.inf)
        place = (rows, rows * 0 + position)
        carried = []
        for layer, cache in zip(self._layers, caches, strict=True):
            x, cache = layer.step(x, cache, place, unseen)
            carried.append(cache)
        return self._normed(x), carried

    def extend(
        self, x: Tensor, caches: Sequence[Cache], place: tuple[Tensor, Tensor], unseen: Tensor, asked: int
    ) -> tuple[Tensor, list[Cache]]:
        """Several positions, ``(B, P, width)``: the last ``asked`` of them, and the caches with all.

        ``place`` is as in ``Block.extend``, and ``unseen`` too, for all positions: ``(B, P, S)``.
        """
        carried = []
        for layer, cache in zip(self._layers, caches, strict=True):
            # Of the last block, the other positions leave keys and values alone.
            rows = unseen if layer is not self._layers[-1] else unseen[:, unseen.shape[1] - asked :]
            x, cache = layer.extend(x, cache, place, rows)
            carried.append(cache)
        return self._normed(x), carried

    @property
    def _layers(self) -> list[Block]:
        return cast("list[Block]", list(self.blocks))

    def _normed(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(x)
        return normed
