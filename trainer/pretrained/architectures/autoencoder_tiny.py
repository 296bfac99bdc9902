"""The tiny autoencoder TAESD, for latents of Stable Diffusion, as diffusers has it: ``AutoencoderTiny``.

It has convolutions, and no normalisation. What its outputs depend on is bounded, so it can be tiled.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn

from service.contract.manifest import Scaling
from trainer.config import CheckpointConfig
from trainer.models.layers.convolutional import decoder_tiling, encoder_tiling
from trainer.pretrained.architectures.base import NORMALISED, Architecture

# Latents are squashed softly into [-3, 3] before they are decoded.
MAGNITUDE = 3.0
# Of a pooled block, and how much wider it is there.
NORM_GROUPS = 4
# A config has no size; the autoencoder is for Stable Diffusion.
SIZE = 512


class AutoencoderTinyConfig(CheckpointConfig):
    """``config.json`` of an ``AutoencoderTiny``."""

    # The magnitude and shift scale latents that are stored as bytes; block_out_channels repeats the widths.
    irrelevant: ClassVar[frozenset[str]] = frozenset(
        {"force_upcast", "latent_magnitude", "latent_shift", "block_out_channels"}
    )

    in_channels: Literal[1, 3] = 3
    out_channels: Literal[1, 3] = 3
    encoder_block_out_channels: tuple[PositiveInt, ...] = Field(default=(64, 64, 64, 64), min_length=1)
    decoder_block_out_channels: tuple[PositiveInt, ...] = Field(default=(64, 64, 64, 64), min_length=1)
    num_encoder_blocks: tuple[NonNegativeInt, ...] = (1, 3, 3, 3)
    num_decoder_blocks: tuple[NonNegativeInt, ...] = (3, 3, 3, 1)
    act_fn: Literal["relu"] = "relu"
    upsample_fn: Literal["nearest"] = "nearest"
    upsampling_scaling_factor: Literal[2] = 2
    latent_channels: PositiveInt = 4
    scaling_factor: float = Field(default=1.0, gt=0)
    shift_factor: float = 0.0

    @model_validator(mode="after")
    def _stages_agree(self) -> Self:
        lengths = {
            len(self.encoder_block_out_channels),
            len(self.num_encoder_blocks),
            len(self.decoder_block_out_channels),
            len(self.num_decoder_blocks),
        }
        if len(lengths) > 1:
            raise ValueError(f"encoder and decoder have stages of {sorted(lengths)} in one config")
        for widths in (self.encoder_block_out_channels, self.decoder_block_out_channels):
            # The convolutions between the stages keep the channels.
            if len(set(widths)) > 1:
                raise ValueError(f"block_out_channels {list(widths)} differ from stage to stage")
        if self.in_channels != self.out_channels:
            raise ValueError(f"in_channels is {self.in_channels}, out_channels is {self.out_channels}")
        return self


class TinyBlock(nn.Module):
    """relu(x + conv3x3(relu(conv3x3(relu(conv3x3(x)))))), ``(B, c, h, w)`` to the same.

    With ``pooled``, x first gets conv1x1(relu(group_norm(conv1x1(x)))) added, where the norm has the mean and
    the variance of the whole image.
    """

    def __init__(self, channels: int, *, pooled: bool = False) -> None:
        super().__init__()
        inner = channels * NORM_GROUPS
        self.pool = (
            nn.Sequential(
                nn.Conv2d(channels, inner, 1, bias=False),
                nn.GroupNorm(NORM_GROUPS, inner),
                nn.ReLU(),
                nn.Conv2d(inner, channels, 1, bias=False),
            )
            if pooled
            else None
        )
        self.conv = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(x + self.conv(x))


def encoder_layers(
    channels: int, outputs: int, width: int, blocks: Sequence[int], *, pooled: bool = False
) -> nn.Sequential:
    """Pixels in [0, 1] to latents; every stage but the first begins with a convolution of stride 2.

    ``pooled`` are the blocks of the last stage.
    """
    layers: list[nn.Module] = []
    for number, count in enumerate(blocks):
        layers.append(
            nn.Conv2d(width, width, 3, padding=1, stride=2, bias=False)
            if number
            else nn.Conv2d(channels, width, 3, padding=1)
        )
        last = number == len(blocks) - 1
        layers += [TinyBlock(width, pooled=pooled and last) for _ in range(count)]
    return nn.Sequential(*layers, nn.Conv2d(width, outputs, 3, padding=1))


def decoder_layers(
    channels: int, outputs: int, width: int, blocks: Sequence[int], *, pooled: bool = False
) -> nn.Sequential:
    """Latents to pixels in [0, 1]; every stage but the last ends with a doubling of the resolution.

    ``pooled`` are the blocks of the first stage.
    """
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
    for number, count in enumerate(blocks[:-1]):
        layers += [TinyBlock(width, pooled=pooled and not number) for _ in range(count)]
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1, bias=False)]
    layers += [TinyBlock(width) for _ in range(blocks[-1])]
    return nn.Sequential(*layers, nn.Conv2d(width, outputs, 3, padding=1))


class AutoencoderTiny(Architecture):
    """Encoder to latents, without a posterior, and decoder.

    With ``pooled`` the blocks at the lowest resolution see the whole image, and there are no tiles.
    """

    untiled = None

    def __init__(self, config: AutoencoderTinyConfig, *, pooled: bool = False) -> None:
        super().__init__()
        channels = config.latent_channels
        self.encoder = encoder_layers(
            config.in_channels,
            channels,
            config.encoder_block_out_channels[0],
            config.num_encoder_blocks,
            pooled=pooled,
        )
        self.decoder = decoder_layers(
            channels,
            config.out_channels,
            config.decoder_block_out_channels[0],
            config.num_decoder_blocks,
            pooled=pooled,
        )
        self.image_channels = config.in_channels
        self.latent_channels = channels
        self.size = SIZE
        self.stride = self.multiple_of = 2 ** (len(config.num_encoder_blocks) - 1)
        self.scaling = Scaling(factor=config.scaling_factor, shift=config.shift_factor)
        if pooled:
            self.untiled = NORMALISED
            return
        self.tilings = (
            encoder_tiling(_flat(self.encoder), self.stride),
            decoder_tiling(_flat(self.decoder), self.stride),
        )

    def encode(self, pixels: Tensor) -> Tensor:
        return self.encoder((pixels + 1) / 2)

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(torch.tanh(z / MAGNITUDE) * MAGNITUDE) * 2 - 1


def _flat(layers: nn.Sequential) -> nn.Sequential:
    """The layers with the convolutions of each block in its place: they see as far as the block does."""
    return nn.Sequential(
        *[each for layer in layers for each in (layer.conv if isinstance(layer, TinyBlock) else [layer])]
    )
