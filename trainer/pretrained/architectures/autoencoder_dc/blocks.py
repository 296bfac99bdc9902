"""The blocks of DC-AE (2410.10733), with the linear attention of EfficientViT (2205.14756)."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON, ATTENTION_EPSILON = 1e-5, 1e-15
# How many times as many channels a GLUMBConv has inside.
EXPANSION = 4

Norm = Literal["rms_norm", "batch_norm"]
Activation = Literal["silu", "relu"]
ACTIVATIONS = {"silu": F.silu, "relu": F.relu}


class RMSNorm(nn.Module):
    """Every cell divided by the root mean square of its channels (1910.07467), then scaled and shifted."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.rsqrt(x.square().mean(dim=1, keepdim=True) + EPSILON)
        return x * scale * self.weight[:, None, None] + self.bias[:, None, None]


class BatchNorm(nn.Module):
    """Every channel scaled by the mean and variance of training (1502.03167)."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=EPSILON)


NORMS: dict[str, type[RMSNorm] | type[BatchNorm]] = {"rms_norm": RMSNorm, "batch_norm": BatchNorm}


class ResBlock(nn.Module):
    """x + norm(conv3x3(activation(conv3x3(x)))), ``(B, c, h, w)`` to the same."""

    def __init__(self, channels: int, norm: Norm, activation: Activation) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = NORMS[norm](channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.conv2(self.activation(self.conv1(x))))


class Aggregation(nn.Module):
    """Queries, keys and values of the cells around: a depthwise convolution, and a 1x1 one in each head."""

    def __init__(self, channels: int, heads: int, kernel: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False
        )
        self.pointwise = nn.Conv2d(channels, channels, 1, groups=3 * heads, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


class LinearAttention(nn.Module):
    """x + norm(multi-scale attention with relu instead of softmax), ``(B, c, h, w)`` to the same.

    Its cost is linear in the cells: values and keys are multiplied first, over all cells.
    """

    def __init__(self, channels: int, head: int, scales: Sequence[int], norm: Norm) -> None:
        super().__init__()
        heads = channels // head
        inner = heads * head
        self.head = head
        self.query, self.key, self.value = (nn.Linear(channels, inner, bias=False) for _ in range(3))
        self.aggregations = nn.ModuleList([Aggregation(3 * inner, heads, kernel) for kernel in scales])
        self.out = nn.Linear(inner * (1 + len(scales)), channels, bias=False)
        self.norm = NORMS[norm](channels)

    def forward(self, x: Tensor) -> Tensor:
        cells = x.permute(0, 2, 3, 1)
        qkv = torch.cat([self.query(cells), self.key(cells), self.value(cells)], dim=3).permute(0, 3, 1, 2)
        every = torch.cat([qkv, *[aggregation(qkv) for aggregation in self.aggregations]], dim=1)
        # Groups of 3 x head channels, as they lie: (B, groups, 3 x head, cells).
        query, key, value = every.flatten(2).unflatten(1, (-1, 3 * self.head)).chunk(3, dim=2)
        query, key = torch.relu(query), torch.relu(key)
        # A row of ones under the values sums up the weights.
        scores = F.pad(value, (0, 0, 0, 1), value=1.0) @ key.transpose(2, 3) @ query
        # Not added, as in the paper's code: torch's exporter leaves out what it takes for zero.
        attended = scores[:, :, :-1] / scores[:, :, -1:].clamp(min=ATTENTION_EPSILON)
        attended = attended.flatten(1, 2).unflatten(2, x.shape[2:])
        return x + self.norm(self.out(attended.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


class GLUMBConv(nn.Module):
    """x + norm(an inverted bottleneck with a gated depthwise convolution), ``(B, c, h, w)`` to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = 2 * EXPANSION * channels
        self.inverted = nn.Conv2d(channels, inner, 1)
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.pointwise = nn.Conv2d(inner // 2, channels, 1, bias=False)
        self.norm = RMSNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        inner, gate = self.depthwise(F.silu(self.inverted(x))).chunk(2, dim=1)
        return x + self.norm(self.pointwise(inner * F.silu(gate)))


class EfficientViTBlock(nn.Sequential):
    """Linear attention, then a gated convolution."""

    def __init__(self, channels: int, head: int, scales: Sequence[int], norm: Norm) -> None:
        super().__init__(LinearAttention(channels, head, scales, norm), GLUMBConv(channels))


class Downsample(nn.Module):
    """Halves the resolution, beside a shortcut: space moved into channels, of which groups are averaged."""

    def __init__(self, channels: int, outputs: int, *, unshuffle: bool, shortcut: bool) -> None:
        super().__init__()
        self.group = 4 * channels // outputs
        self.unshuffle, self.shortcut = unshuffle, shortcut
        self.conv = nn.Conv2d(
            channels, outputs // 4 if unshuffle else outputs, 3, padding=1, stride=1 if unshuffle else 2
        )

    def forward(self, x: Tensor) -> Tensor:
        halved = self.conv(x)
        if self.unshuffle:
            halved = F.pixel_unshuffle(halved, 2)
        if not self.shortcut:
            return halved
        return halved + averaged(F.pixel_unshuffle(x, 2), self.group)


class Upsample(nn.Module):
    """Doubles the resolution, beside a shortcut: channels repeated, and moved into space."""

    def __init__(self, channels: int, outputs: int, *, interpolate: bool, shortcut: bool) -> None:
        super().__init__()
        self.repeats = 4 * outputs // channels
        self.interpolate, self.shortcut = interpolate, shortcut
        self.conv = nn.Conv2d(channels, outputs if interpolate else 4 * outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.interpolate:
            doubled = self.conv(F.interpolate(x, scale_factor=2.0))
        else:
            doubled = F.pixel_shuffle(self.conv(x), 2)
        if not self.shortcut:
            return doubled
        return doubled + F.pixel_shuffle(repeated(x, self.repeats), 2)


def averaged(x: Tensor, group: int) -> Tensor:
    """The means of groups of neighbouring channels: ``(B, c, h, w)`` to ``(B, c / group, h, w)``."""
    return x.unflatten(1, (-1, group)).mean(dim=2)


def repeated(x: Tensor, times: int) -> Tensor:
    """Every channel repeated, its copies side by side: ``(B, c, h, w)`` to ``(B, c * times, h, w)``."""
    return x.repeat_interleave(times, dim=1, output_size=x.shape[1] * times)
