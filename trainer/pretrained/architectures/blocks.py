"""The encoder and the decoder of latent diffusion (2112.10752), which VQGAN had before it (2012.09841).

Residual blocks in stages of halving or doubling resolution, and self-attention at the lowest. Every layer is
normalised in groups of channels over the whole image, so neither can be tiled.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-6


class ResnetBlock(nn.Module):
    """x + conv3x3(silu(norm(conv3x3(silu(norm(x)))))), ``(B, c, h, w)`` to ``(B, c', h, w)``.

    Where c is not c', x goes through a 1x1 convolution.
    """

    def __init__(self, channels: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels, EPSILON)
        self.conv1 = nn.Conv2d(channels, outputs, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, outputs, EPSILON)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(channels, outputs, 1) if channels != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return self.shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class AttentionBlock(nn.Module):
    """x + attention of every cell to all cells, with one head. ``(B, c, h, w)`` to the same."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, EPSILON)
        self.query, self.key, self.value, self.out = (nn.Linear(channels, channels) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        cells = self.norm(x).flatten(2).transpose(1, 2)
        query, key, value = self.query(cells), self.key(cells), self.value(cells)
        # Written out: ONNX Runtime fuses it, and torch's own operator exports with its masks and casts.
        weights = torch.softmax(query @ key.transpose(1, 2) * query.shape[-1] ** -0.5, dim=-1)
        return x + self.out(weights @ value).transpose(1, 2).view(x.shape)


class Downsample(nn.Module):
    """Halves the resolution: a 3x3 convolution of stride 2, padded at the right and the bottom alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles the resolution: every cell repeated (nearest), and a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0))


class Stage(nn.Module):
    """Residual blocks at one resolution, each followed by attention if the stage has it, and ``resample``."""

    def __init__(
        self,
        channels: int,
        outputs: int,
        groups: int,
        *,
        blocks: int,
        attention: bool,
        resample: nn.Module | None,
    ) -> None:
        super().__init__()
        inputs = [channels, *[outputs] * (blocks - 1)]
        self.blocks = nn.ModuleList([ResnetBlock(each, outputs, groups) for each in inputs])
        self.attentions = nn.ModuleList(
            [AttentionBlock(outputs, groups) for _ in range(blocks if attention else 0)]
        )
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        for index, block in enumerate(self.blocks):
            x = block(x)
            if self.attentions:
                x = self.attentions[index](x)
        return x if self.resample is None else self.resample(x)


class Middle(nn.Module):
    """A residual block, attention unless there is none, and a residual block."""

    def __init__(self, channels: int, groups: int, *, attention: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([ResnetBlock(channels, channels, groups) for _ in range(2)])
        self.attention = AttentionBlock(channels, groups) if attention else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks[1](self.attention(self.blocks[0](x)))


class Encoder(nn.Module):
    """Pixels ``(B, C, H, W)`` to ``(B, outputs, H / s, W / s)``, where s is 2 ** (stages - 1).

    ``widths`` are the channels of the stages, ``attentions`` say which of them have attention beside that in
    the middle, ``blocks`` are the residual blocks of a stage.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        widths: Sequence[int],
        groups: int,
        *,
        blocks: int,
        attentions: Sequence[bool],
        middle_attention: bool = True,
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(channels, widths[0], 3, padding=1)
        last = len(widths) - 1
        self.stages = nn.ModuleList(
            [
                Stage(
                    before,
                    width,
                    groups,
                    blocks=blocks,
                    attention=attentions[number],
                    resample=Downsample(width) if number < last else None,
                )
                for number, (before, width) in enumerate(pairwise([widths[0], *widths]))
            ]
        )
        self.middle = Middle(widths[-1], groups, attention=middle_attention)
        self.norm_out = nn.GroupNorm(groups, widths[-1], EPSILON)
        self.conv_out = nn.Conv2d(widths[-1], outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for stage in self.stages:
            x = stage(x)
        return self.conv_out(F.silu(self.norm_out(self.middle(x))))


class Decoder(nn.Module):
    """z ``(B, c, h, w)`` to pixels ``(B, C, h * s, w * s)``, where s is 2 ** (stages - 1).

    ``widths`` are the channels of the stages of the encoder; those of the decoder are the other way round,
    and have one residual block more. ``attentions`` are in the decoder's order.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        widths: Sequence[int],
        groups: int,
        *,
        blocks: int,
        attentions: Sequence[bool],
        middle_attention: bool = True,
    ) -> None:
        super().__init__()
        widths = widths[::-1]
        self.conv_in = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.middle = Middle(widths[0], groups, attention=middle_attention)
        last = len(widths) - 1
        self.stages = nn.ModuleList(
            [
                Stage(
                    before,
                    width,
                    groups,
                    blocks=blocks + 1,
                    attention=attentions[number],
                    resample=Upsample(width) if number < last else None,
                )
                for number, (before, width) in enumerate(pairwise([widths[0], *widths]))
            ]
        )
        self.norm_out = nn.GroupNorm(groups, widths[-1], EPSILON)
        self.conv_out = nn.Conv2d(widths[-1], outputs, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.middle(self.conv_in(z))
        for stage in self.stages:
            x = stage(x)
        return self.conv_out(F.silu(self.norm_out(x)))
