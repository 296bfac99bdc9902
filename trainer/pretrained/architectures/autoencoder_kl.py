"""The VAE of latent diffusion: images to a grid of latents, by a Gaussian posterior (2112.10752).

Its config is that of diffusers' ``AutoencoderKL``.
"""

from typing import ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from service.contract.manifest import Scaling
from trainer.config import CheckpointConfig
from trainer.pretrained.architectures.base import Architecture
from trainer.pretrained.architectures.blocks import Decoder, Encoder

DownBlock = Literal["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]
UpBlock = Literal["UpDecoderBlock2D", "AttnUpDecoderBlock2D"]


class StagesConfig(CheckpointConfig):
    """The fields of diffusers' autoencoders of residual blocks in stages."""

    irrelevant: ClassVar[frozenset[str]] = frozenset({"force_upcast"})

    in_channels: Literal[1, 3] = 3
    out_channels: Literal[1, 3] = 3
    down_block_types: tuple[DownBlock, ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[UpBlock, ...] = ("UpDecoderBlock2D",)
    block_out_channels: tuple[PositiveInt, ...] = Field(default=(64,), min_length=1)
    layers_per_block: PositiveInt = 1
    act_fn: Literal["silu", "swish"] = "silu"
    norm_num_groups: PositiveInt = 32
    sample_size: PositiveInt = 32
    mid_block_add_attention: bool = True
    scaling_factor: float = Field(default=0.18215, gt=0)

    @model_validator(mode="after")
    def _stages_agree(self) -> Self:
        stages = len(self.block_out_channels)
        if not len(self.down_block_types) == len(self.up_block_types) == stages:
            raise ValueError(
                f"{len(self.down_block_types)} down_block_types and {len(self.up_block_types)} "
                f"up_block_types for {stages} block_out_channels"
            )
        if self.in_channels != self.out_channels:
            raise ValueError(f"in_channels is {self.in_channels}, out_channels is {self.out_channels}")
        if odd := [width for width in self.block_out_channels if width % self.norm_num_groups]:
            raise ValueError(f"block_out_channels {odd[0]} is no multiple of norm_num_groups")
        return self

    @property
    def stride(self) -> int:
        """Pixels of a cell along an axis."""
        return 2 ** (len(self.block_out_channels) - 1)

    def encoder(self, outputs: int) -> Encoder:
        """The encoder, with ``outputs`` output channels."""
        return Encoder(
            self.in_channels,
            outputs,
            self.block_out_channels,
            self.norm_num_groups,
            blocks=self.layers_per_block,
            attentions=["Attn" in each for each in self.down_block_types],
            middle_attention=self.mid_block_add_attention,
        )

    def decoder(self, inputs: int) -> Decoder:
        """The decoder, with ``inputs`` input channels."""
        return Decoder(
            inputs,
            self.out_channels,
            self.block_out_channels,
            self.norm_num_groups,
            blocks=self.layers_per_block,
            attentions=["Attn" in each for each in self.up_block_types],
            middle_attention=self.mid_block_add_attention,
        )


class AutoencoderKLConfig(StagesConfig):
    """``config.json`` of an ``AutoencoderKL``."""

    latent_channels: PositiveInt = 4
    shift_factor: float | None = None
    # A scaling by channel, which the contract does not have.
    latents_mean: None = None
    latents_std: None = None
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True


class AutoencoderKL(Architecture):
    """Encoder to the mean and log-variance of the latents, and decoder."""

    posterior = True

    def __init__(self, config: AutoencoderKLConfig) -> None:
        super().__init__()
        channels = config.latent_channels
        self.encoder = config.encoder(2 * channels)
        self.decoder = config.decoder(channels)
        # Named as in VQGAN, where they are on either side of the codebook.
        self.quant_conv = nn.Conv2d(2 * channels, 2 * channels, 1) if config.use_quant_conv else nn.Identity()
        self.post_quant_conv = (
            nn.Conv2d(channels, channels, 1) if config.use_post_quant_conv else nn.Identity()
        )
        self.image_channels = config.in_channels
        self.latent_channels = channels
        self.size = config.sample_size
        self.stride = self.multiple_of = config.stride
        self.scaling = Scaling(factor=config.scaling_factor, shift=config.shift_factor or 0.0)

    def encode(self, pixels: Tensor) -> Tensor:
        return self.quant_conv(self.encoder(pixels))

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(z))
