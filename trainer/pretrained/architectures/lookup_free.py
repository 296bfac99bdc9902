"""The tokenizer of Open-MAGVIT2 (2409.04410): convolutions alone, and lookup-free quantization (2310.05737).

image ──> encoder ──> one number a bit ──> their signs: the code
image <── decoder, each stage after an adaptive group norm <── -1 or 1 a bit
"""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar, Literal, Self

import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator
from torch import Tensor, nn

from trainer.config import CheckpointConfig
from trainer.config.imported import inside, model_arguments
from trainer.models.quantizers.lookup_free import LookupFree
from trainer.pretrained.architectures.base import Architecture
from trainer.pretrained.architectures.blocks import EPSILON, ResnetBlock, Stage
from trainer.pretrained.architectures.vqgan import GROUPS, check_convolutions


class NetworksConfig(BaseModel):
    """``ddconfig``: the networks. ``resolution`` changes nothing, and is often not that of the images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ch: PositiveInt
    ch_mult: tuple[PositiveInt, ...] = Field(min_length=1)
    num_res_blocks: PositiveInt
    in_channels: Literal[1, 3]
    out_ch: Literal[1, 3]
    resolution: PositiveInt
    z_channels: PositiveInt
    double_z: Literal[False] = False

    @model_validator(mode="after")
    def _networks_agree(self) -> Self:
        check_convolutions(self.ch, self.ch_mult, self.in_channels, self.out_ch)
        return self


class OpenMAGVIT2Config(CheckpointConfig):
    """``model.init_args`` of a run of Open-MAGVIT2, and ``size``, that of the images it was trained on."""

    irrelevant: ClassVar[frozenset[str]] = frozenset(
        {
            *("lossconfig", "ckpt_path", "ignore_keys", "image_key", "colorize_nlabels", "monitor"),
            *("sample_minimization_weight", "batch_maximization_weight", "use_ema", "stage"),
            *("learning_rate", "resume_lr", "warmup_epochs", "scheduler_type", "min_learning_rate"),
            *("lr_drop_epoch", "lr_drop_rate", "use_shared_epoch", "lr_drop_iter"),
            *("sche_type", "wpe", "wp", "wp0", "max_iter", "wp_iter", "factorized_bits"),
        }
    )

    ddconfig: NetworksConfig
    n_embed: int = Field(ge=2)
    embed_dim: PositiveInt
    # Two codes a cell, which is for the transformer that comes after.
    token_factorization: Literal[False] = False
    size: PositiveInt = 256

    @classmethod
    def of(cls, values: Mapping[str, Any], source: str) -> Self:
        size = inside(values, "data", "init_args", "validation", "params", "config", "size")
        given = model_arguments(values)
        return super().of(given if size is None else {**given, "size": size}, source)

    @model_validator(mode="after")
    def _bits_agree(self) -> Self:
        bits = self.ddconfig.z_channels
        if not bits == self.embed_dim == math.log2(self.n_embed):
            raise ValueError(
                f"n_embed is {self.n_embed} and embed_dim {self.embed_dim}, where z_channels {bits} asks for "
                f"{2**bits} and {bits}"
            )
        return self


class DepthToSpace(nn.Module):
    """Doubles the resolution: a 3x3 convolution to four times the channels, laid out as 2x2 cells.

    The four values of an output channel are a whole number of channels apart, which they are not for
    ``F.pixel_shuffle``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 4 * channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        cells = self.conv1(x).view(batch, 2, 2, channels, height, width)
        return cells.permute(0, 3, 4, 1, 5, 2).reshape(batch, channels, 2 * height, 2 * width)


class AdaptiveGroupNorm(nn.Module):
    """A group norm whose scale and shift come from the codes of the whole image.

    The scale is linear in each bit's standard deviation over the cells, the shift in its mean.
    """

    def __init__(self, bits: int, channels: int) -> None:
        super().__init__()
        self.gn = nn.GroupNorm(GROUPS, channels, EPSILON, affine=False)
        self.gamma = nn.Linear(bits, channels)
        self.beta = nn.Linear(bits, channels)

    def forward(self, x: Tensor, signs: Tensor) -> Tensor:
        """``x`` is float ``(B, c, H, W)``, ``signs`` float ``(B, bits, h, w)``."""
        cells = signs.flatten(2)
        mean = cells.mean(dim=2)
        # Over one less than the cells, as for a sample; but an image of one cell has no deviation.
        squares = (cells - mean[:, :, None]).square().sum(dim=2)
        deviation = (squares / max(cells.shape[2] - 1, 1) + EPSILON).sqrt()
        return self.gamma(deviation)[:, :, None, None] * self.gn(x) + self.beta(mean)[:, :, None, None]


class Encoder(nn.Module):
    """Pixels ``(B, C, H, W)`` to ``(B, bits, H / s, W / s)``, where s is 2 ** (stages - 1)."""

    def __init__(self, config: NetworksConfig) -> None:
        super().__init__()
        widths = [config.ch * factor for factor in config.ch_mult]
        self.conv_in = nn.Conv2d(config.in_channels, config.ch, 3, padding=1, bias=False)
        self.down = nn.ModuleList()
        for number, (before, width) in enumerate(pairwise([widths[0], *widths])):
            last = number == len(widths) - 1
            smaller = None if last else nn.Conv2d(width, width, 3, stride=2, padding=1)
            self.down.append(_stage(before, width, config, smaller))
        self.mid_block = _middle(widths[-1], config)
        self.norm_out = nn.GroupNorm(GROUPS, widths[-1], EPSILON)
        self.conv_out = nn.Conv2d(widths[-1], config.z_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for part in (*self.down, *self.mid_block):
            x = part(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Decoder(nn.Module):
    """Signs ``(B, bits, h, w)`` to pixels ``(B, C, h * s, w * s)``. ``up`` is numbered as ``down``."""

    def __init__(self, config: NetworksConfig) -> None:
        super().__init__()
        widths = [config.ch * factor for factor in config.ch_mult]
        self.conv_in = nn.Conv2d(config.z_channels, widths[-1], 3, padding=1)
        self.mid_block = _middle(widths[-1], config)
        self.adaptive, self.up = nn.ModuleList(), nn.ModuleList()
        for number, (width, before) in enumerate(pairwise([*widths, widths[-1]])):
            self.adaptive.append(AdaptiveGroupNorm(config.z_channels, before))
            self.up.append(_stage(before, width, config, DepthToSpace(width) if number else None))
        self.norm_out = nn.GroupNorm(GROUPS, widths[0], EPSILON)
        self.conv_out = nn.Conv2d(widths[0], config.out_ch, 3, padding=1)

    def forward(self, signs: Tensor) -> Tensor:
        x = self.conv_in(signs)
        for block in self.mid_block:
            x = block(x)
        for adaptive, stage in zip(reversed(self.adaptive), reversed(self.up), strict=True):
            x = stage(adaptive(x, signs))
        return self.conv_out(F.silu(self.norm_out(x)))


def _stage(before: int, width: int, config: NetworksConfig, resample: nn.Module | None) -> Stage:
    blocks = config.num_res_blocks
    return Stage(before, width, GROUPS, blocks=blocks, attention=False, resample=resample, bias=False)


def _middle(width: int, config: NetworksConfig) -> nn.ModuleList:
    return nn.ModuleList(
        [ResnetBlock(width, width, GROUPS, bias=False) for _ in range(config.num_res_blocks)]
    )


class OpenMAGVIT2(Architecture):
    """Encoder and decoder around the signs of ``z_channels`` bits a cell."""

    # All combinations of -1 and 1.
    stores_codebook = False

    def __init__(self, config: OpenMAGVIT2Config) -> None:
        super().__init__()
        net = config.ddconfig
        self.image_channels, self.latent_channels = net.in_channels, net.z_channels
        self.size = config.size
        self.stride = self.multiple_of = 2 ** (len(net.ch_mult) - 1)
        self.encoder, self.decoder = Encoder(net), Decoder(net)
        self.quantizer = LookupFree(net.z_channels)

    def encode(self, pixels: Tensor) -> Tensor:
        z: Tensor = self.encoder(pixels)
        return z

    def decode(self, z: Tensor) -> Tensor:
        pixels: Tensor = self.decoder(z)
        return pixels
