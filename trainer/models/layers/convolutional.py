"""A convolutional encoder and decoder between images and grids: strided convolutions and residual blocks.

Each output depends on a bounded part of the input, so a large image or grid may be cut into tiles. With
attention it depends on the whole input, and there are no tiles.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.contract.manifest import Tiling

Upsampling = Literal["transposed", "nearest", "shuffle"]
ATTENDS = "its attention is to all cells of the grid"


class ResidualBlock(nn.Module):
    """x + conv1x1(relu(conv3x3(relu(x)))), starting as x + a bias. ``(B, C, h, w)`` to the same."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        hidden = min(channels, hidden)
        self.gather = nn.Conv2d(channels, hidden, 3, padding=1)
        self.mix = nn.Conv2d(hidden, channels, 1)
        nn.init.zeros_(self.mix.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(F.relu(self.gather(F.relu(x))))


def widths(stem: int, trunk: int, stride: int) -> list[int]:
    """Channels after each halving of the resolution, from ``stem`` to ``trunk`` in even ratios.

    ``stride`` is a power of two, at least 2; the list has log2(stride) entries.
    """
    halvings = int(math.log2(stride))
    if stride < 2 or 2**halvings != stride:
        raise ValueError(f"a stride of {stride} is no power of two from 2 up")
    if halvings == 1:
        return [trunk]
    ratio = (trunk / stem) ** (1 / (halvings - 1))
    return [max(8, round(stem * ratio**step / 8) * 8) for step in range(halvings - 1)] + [trunk]


class SelfAttention(nn.Module):
    """x + attention of each cell to all cells, starting as x. ``(B, C, h, w)`` to the same (1706.03762)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.project = nn.Linear(channels, 3 * channels)
        self.join = nn.Linear(channels, channels)
        nn.init.zeros_(self.join.weight)
        nn.init.zeros_(self.join.bias)

    def forward(self, x: Tensor) -> Tensor:
        cells = x.flatten(2).transpose(1, 2)
        queries, keys, values = self.project(self.norm(cells)).chunk(3, dim=2)
        attended = self.join(F.scaled_dot_product_attention(queries, keys, values))
        return x + attended.transpose(1, 2).view(x.shape)


class PixelShuffle(nn.Sequential):
    """A 3x3 convolution and a pixel shuffle (1609.05158): ``(B, C, h, w)`` to ``(B, C', 2 h, 2 w)``.

    The four pixels of a cell start alike, as of repeated pixels, so that the output starts without a
    checkerboard (ICNR, 1707.02937).
    """

    def __init__(self, channels: int, outputs: int) -> None:
        convolution = nn.Conv2d(channels, 4 * outputs, 3, padding=1)
        with torch.no_grad():
            for parameter in convolution.parameters():
                parameter.copy_(parameter[::4].repeat_interleave(4, dim=0))
        super().__init__(convolution, nn.PixelShuffle(2))


class Encoder(nn.Sequential):
    """Images ``(B, C, H, W)`` to a grid ``(B, dim, H / stride, W / stride)``.

    ``stage_blocks`` residual blocks at each resolution on the way, ``blocks`` at the last, and there
    self-attention with ``attention``.
    """

    def __init__(
        self,
        channels: int,
        dim: int,
        *,
        stride: int,
        stem: int,
        trunk: int,
        hidden: int,
        blocks: int,
        stage_blocks: int = 1,
        attention: bool = False,
    ) -> None:
        layers: list[nn.Module] = []
        steps = widths(stem, trunk, stride)
        for width, count in zip(steps, [*[stage_blocks] * (len(steps) - 1), blocks], strict=True):
            layers += [nn.ReLU()] if layers else []
            layers += [nn.Conv2d(channels, width, 4, stride=2, padding=1)]
            layers += [ResidualBlock(width, hidden) for _ in range(count)]
            channels = width
        layers += [SelfAttention(trunk)] if attention else []
        super().__init__(*layers, nn.ReLU(), nn.Conv2d(trunk, dim, 1))
        self.stride = stride
        self.untiled = ATTENDS if attention else None

    def tiling(self) -> Tiling | None:
        """The pixels along an axis that a cell depends on, and the cells on each side that have them.

        None with attention, by which a cell depends on them all.
        """
        return None if self.untiled else encoder_tiling(self, self.stride)


class Decoder(nn.Sequential):
    """A grid ``(B, dim, h, w)`` to images ``(B, C, h * stride, w * stride)``: the encoder's mirror image.

    It doubles the resolution by ``upsampling``: transposed convolutions, repeated pixels (nearest) and then
    convolutions, or convolutions and then a pixel shuffle.
    """

    def __init__(
        self,
        channels: int,
        dim: int,
        *,
        stride: int,
        stem: int,
        trunk: int,
        hidden: int,
        blocks: int,
        stage_blocks: int = 1,
        attention: bool = False,
        upsampling: Upsampling = "transposed",
    ) -> None:
        steps = widths(stem, trunk, stride)[::-1]
        layers: list[nn.Module] = [nn.Conv2d(dim, trunk, 3, padding=1)]
        layers += [SelfAttention(trunk)] if attention else []
        counts = [blocks, *[stage_blocks] * (len(steps) - 1)]
        for width, narrower, count in zip(steps, [*steps[1:], channels], counts, strict=True):
            layers += [*[ResidualBlock(width, hidden) for _ in range(count)], nn.ReLU()]
            layers += _doubling(width, narrower, upsampling)
        super().__init__(*layers)
        self.stride = stride
        self.untiled = ATTENDS if attention else None

    def tiling(self) -> Tiling | None:
        """The most cells along an axis that a pixel depends on, and the halo that a cell's pixels need.

        None with attention, by which a pixel depends on them all.
        """
        return None if self.untiled else decoder_tiling(self, self.stride)


def _doubling(channels: int, outputs: int, upsampling: Upsampling) -> list[nn.Module]:
    """Layers from ``(B, channels, h, w)`` to ``(B, outputs, 2 h, 2 w)``."""
    match upsampling:
        case "transposed":
            return [nn.ConvTranspose2d(channels, outputs, 4, stride=2, padding=1)]
        case "nearest":
            return [nn.Upsample(scale_factor=2), nn.Conv2d(channels, outputs, 3, padding=1)]
        case "shuffle":
            return [*PixelShuffle(channels, outputs)]


def encoder_tiling(layers: nn.Sequential, stride: int) -> Tiling:
    """The tiling of layers that turn images into a grid of cells of ``stride`` x ``stride`` pixels."""
    first, last = _span(layers, 0, 0)
    beyond = max(-first, last - (stride - 1), 0)
    return Tiling(receptive_field=last - first + 1, halo=math.ceil(beyond / stride))


def decoder_tiling(layers: nn.Sequential, stride: int) -> Tiling:
    """The tiling of layers that turn a grid of cells into images of ``stride`` x ``stride`` pixels a cell."""
    spans = [_span(layers, pixel, pixel) for pixel in range(stride)]
    field = max(last - first + 1 for first, last in spans)
    return Tiling(receptive_field=field, halo=max(-spans[0][0], spans[-1][1], 0))


def _span(layers: nn.Sequential, first: int, last: int) -> tuple[int, int]:
    """The first and the last input position, along an axis, that some outputs of layers depend on.

    These are the outputs at the positions from ``first`` to ``last``. Raises TypeError for a layer whose span
    is not known.
    """
    for layer in reversed(layers):
        match layer.gather if isinstance(layer, ResidualBlock) else layer:
            case nn.Conv2d(kernel_size=(kernel, _), stride=(stride, _), padding=(padding, _)):
                first, last = first * stride - padding, last * stride - padding + kernel - 1
            case nn.ConvTranspose2d(kernel_size=(kernel, _), stride=(stride, _), padding=(padding, _)):
                first = math.ceil((first + padding - kernel + 1) / stride)
                last = (last + padding) // stride
            case nn.Upsample(scale_factor=float(factor), mode="nearest"):
                first, last = int(first // factor), int(last // factor)
            case nn.PixelShuffle(upscale_factor=factor):
                first, last = first // factor, last // factor
            case nn.ReLU():
                pass
            case unknown:
                raise TypeError(f"it is not known what the outputs of {type(unknown).__name__} depend on")
    return first, last
