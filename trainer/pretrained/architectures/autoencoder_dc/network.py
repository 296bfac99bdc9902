"""DC-AE, the deep compression autoencoder: images to a grid of few cells and many channels (2410.10733).

Residual blocks, blocks of EfficientViT with linear attention (2205.14756), and shortcuts past every change of
resolution that move space into channels. Its config is that of diffusers' ``AutoencoderDC``.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, Self, TypeVar

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator
from torch import Tensor, nn

from service.contract.manifest import Scaling
from trainer.config import CheckpointConfig
from trainer.pretrained.architectures.autoencoder_dc.blocks import (
    ACTIVATIONS,
    Activation,
    Downsample,
    EfficientViTBlock,
    Norm,
    ResBlock,
    RMSNorm,
    Upsample,
    averaged,
    repeated,
)
from trainer.pretrained.architectures.base import Architecture

# A config has no size; these models are for images of this size and more.
SIZE = 512

Block = Literal["ResBlock", "EfficientViTBlock"]

T = TypeVar("T")


class AutoencoderDCConfig(CheckpointConfig):
    """``config.json`` of an ``AutoencoderDC``; what may differ by stage may be given once for all."""

    in_channels: Literal[1, 3] = 3
    latent_channels: PositiveInt = 32
    attention_head_dim: PositiveInt = 32
    encoder_block_types: tuple[Block, ...] | Block = "ResBlock"
    decoder_block_types: tuple[Block, ...] | Block = "ResBlock"
    encoder_block_out_channels: tuple[PositiveInt, ...] = (128, 256, 512, 512, 1024, 1024)
    decoder_block_out_channels: tuple[PositiveInt, ...] = (128, 256, 512, 512, 1024, 1024)
    encoder_layers_per_block: tuple[NonNegativeInt, ...] = (2, 2, 2, 3, 3, 3)
    decoder_layers_per_block: tuple[NonNegativeInt, ...] = (3, 3, 3, 3, 3, 3)
    encoder_qkv_multiscales: tuple[tuple[PositiveInt, ...], ...] = ((), (), (), (5,), (5,), (5,))
    decoder_qkv_multiscales: tuple[tuple[PositiveInt, ...], ...] = ((), (), (), (5,), (5,), (5,))
    upsample_block_type: Literal["pixel_shuffle", "interpolate"] = "pixel_shuffle"
    downsample_block_type: Literal["pixel_unshuffle", "conv"] = "pixel_unshuffle"
    decoder_norm_types: tuple[Norm, ...] | Norm = "rms_norm"
    decoder_act_fns: tuple[Activation, ...] | Activation = "silu"
    encoder_out_shortcut: bool = True
    decoder_in_shortcut: bool = True
    decoder_conv_act_fn: Activation = "relu"
    scaling_factor: float = Field(default=1.0, gt=0)

    @field_validator("downsample_block_type", mode="before")
    @classmethod
    def _conv_is_conv(cls, value: str) -> str:
        # Published configs have "Conv" and "conv" for the same.
        return value.lower() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _stages_agree(self) -> Self:
        count = len(self.encoder_block_out_channels)
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != count:
                raise ValueError(f"{name} has {len(value)} stages, encoder_block_out_channels has {count}")
        for name in ("encoder_layers_per_block", "decoder_layers_per_block"):
            if 0 in getattr(self, name)[1:]:
                raise ValueError(f"{name} is {list(getattr(self, name))}: only the first stage may be empty")
        for name in ("encoder_block_out_channels", "decoder_block_out_channels"):
            widths = getattr(self, name)
            # Shortcuts average groups of channels, or repeat channels.
            if any(4 * low % high or 4 * high % low for low, high in pairwise(widths)):
                raise ValueError(f"{name} is {list(widths)}: four times one is no multiple of the next")
            if widths[-1] % self.latent_channels:
                raise ValueError(f"{name}: {widths[-1]} is no multiple of latent_channels")
        return self


def each(value: tuple[T, ...] | T, stages: int) -> tuple[T, ...]:
    """A value for every stage."""
    return value if isinstance(value, tuple) else (value,) * stages


class Encoder(nn.Module):
    """Pixels ``(B, C, H, W)`` to latents ``(B, c, H / s, W / s)``, where s is 2 ** (stages - 1)."""

    def __init__(self, config: AutoencoderDCConfig) -> None:
        super().__init__()
        widths, layers = config.encoder_block_out_channels, config.encoder_layers_per_block
        unshuffle = config.downsample_block_type == "pixel_unshuffle"
        # An empty first stage leaves the first halving to the convolution before it.
        self.conv_in = (
            nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
            if layers[0]
            else Downsample(config.in_channels, widths[1], unshuffle=unshuffle, shortcut=False)
        )
        stages: list[list[nn.Module]] = []
        types: Sequence[Block] = each(config.encoder_block_types, len(widths))
        for number, (width, count) in enumerate(zip(widths, layers, strict=True)):
            scales = config.encoder_qkv_multiscales[number]
            stages.append(
                [_block(config, types[number], width, scales, "rms_norm", "silu") for _ in range(count)]
            )
            if count and number < len(widths) - 1:
                stages[-1].append(Downsample(width, widths[number + 1], unshuffle=unshuffle, shortcut=True))
        self.stages = nn.ModuleList([nn.Sequential(*stage) for stage in stages])
        self.conv_out = nn.Conv2d(widths[-1], config.latent_channels, 3, padding=1)
        self.group = widths[-1] // config.latent_channels if config.encoder_out_shortcut else 0

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for stage in self.stages:
            x = stage(x)
        return self.conv_out(x) + averaged(x, self.group) if self.group else self.conv_out(x)


class Decoder(nn.Module):
    """Latents ``(B, c, h, w)`` to pixels ``(B, C, h * s, w * s)``; stages are numbered as in the encoder."""

    def __init__(self, config: AutoencoderDCConfig) -> None:
        super().__init__()
        widths, layers = config.decoder_block_out_channels, config.decoder_layers_per_block
        interpolate = config.upsample_block_type == "interpolate"
        self.conv_in = nn.Conv2d(config.latent_channels, widths[-1], 3, padding=1)
        self.repeats = widths[-1] // config.latent_channels if config.decoder_in_shortcut else 0
        stages: list[list[nn.Module]] = []
        types: Sequence[Block] = each(config.decoder_block_types, len(widths))
        norms: Sequence[Norm] = each(config.decoder_norm_types, len(widths))
        activations: Sequence[Activation] = each(config.decoder_act_fns, len(widths))
        for number, (width, count) in enumerate(zip(widths, layers, strict=True)):
            grown = count and number < len(widths) - 1
            up = (
                [Upsample(widths[number + 1], width, interpolate=interpolate, shortcut=True)] if grown else []
            )
            scales, norm = config.decoder_qkv_multiscales[number], norms[number]
            blocks = [
                _block(config, types[number], width, scales, norm, activations[number]) for _ in range(count)
            ]
            stages.append([*up, *blocks])
        self.stages = nn.ModuleList([nn.Sequential(*stage) for stage in stages])
        width = widths[0] if layers[0] else widths[1]
        self.norm_out = RMSNorm(width)
        self.activation = ACTIVATIONS[config.decoder_conv_act_fn]
        self.conv_out = (
            nn.Conv2d(width, config.in_channels, 3, padding=1)
            if layers[0]
            else Upsample(width, config.in_channels, interpolate=interpolate, shortcut=False)
        )

    def forward(self, z: Tensor) -> Tensor:
        x = self.conv_in(z) + repeated(z, self.repeats) if self.repeats else self.conv_in(z)
        for stage in reversed(self.stages):
            x = stage(x)
        return self.conv_out(self.activation(self.norm_out(x)))


def _block(
    config: AutoencoderDCConfig,
    block: Block,
    width: int,
    scales: Sequence[int],
    norm: Norm,
    activation: Activation,
) -> nn.Module:
    if block == "ResBlock":
        return ResBlock(width, norm, activation)
    return EfficientViTBlock(width, config.attention_head_dim, scales, norm)


class AutoencoderDC(Architecture):
    """Encoder to latents, without a posterior, and decoder."""

    untiled = "its attention is of every cell to all cells"

    def __init__(self, config: AutoencoderDCConfig) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.image_channels = config.in_channels
        self.latent_channels = config.latent_channels
        self.size = SIZE
        self.stride = self.multiple_of = 2 ** (len(config.encoder_block_out_channels) - 1)
        self.scaling = Scaling(factor=config.scaling_factor)

    def encode(self, pixels: Tensor) -> Tensor:
        return self.encoder(pixels)

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z)
