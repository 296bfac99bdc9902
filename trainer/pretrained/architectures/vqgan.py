"""The VQGANs of taming-transformers (2012.09841), LlamaGen (2406.06525) and IBQ (2412.02692).

    image ──> encoder ──> quant_conv ──> the code of each cell
    image <── decoder <── post_quant_conv <── code vectors

The networks are the same. What differs is where they have attention, how a code is looked up, and the names.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator
from torch import Tensor, nn

from trainer.config import CheckpointConfig
from trainer.config.imported import model_arguments
from trainer.models.quantizers import Codebook, InnerProducts, Quantizer
from trainer.pretrained.architectures.base import Architecture
from trainer.pretrained.architectures.blocks import Decoder, Encoder

GROUPS = 32
# LlamaGen has these in its code rather than in its config.
LLAMAGEN_CHANNELS, LLAMAGEN_BLOCKS, LLAMAGEN_SIZE = 128, 2, 256


class ConvolutionsConfig(BaseModel):
    """``ddconfig``: the networks of a VQGAN. ``dropout`` is of training alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ch: PositiveInt
    ch_mult: tuple[PositiveInt, ...] = Field(min_length=1)
    num_res_blocks: PositiveInt
    attn_resolutions: tuple[PositiveInt, ...]
    in_channels: Literal[1, 3]
    out_ch: Literal[1, 3]
    resolution: PositiveInt
    z_channels: PositiveInt
    double_z: Literal[False]
    dropout: float = 0.0
    resamp_with_conv: Literal[True] = True

    @model_validator(mode="after")
    def _networks_agree(self) -> Self:
        check_convolutions(self.ch, self.ch_mult, self.in_channels, self.out_ch)
        return self

    @property
    def attentions(self) -> list[bool]:
        """Which stages of the encoder have attention, by their size for images of ``resolution`` pixels."""
        return [self.resolution >> stage in self.attn_resolutions for stage in range(len(self.ch_mult))]


def check_convolutions(channels: int, factors: Sequence[int], inputs: int, outputs: int) -> None:
    """Check the fields that all configs of such networks have. Raises ValueError."""
    if inputs != outputs:
        raise ValueError(f"in_channels is {inputs}, out_ch is {outputs}")
    if factors[0] != 1:
        raise ValueError(f"ch_mult begins with {factors[0]}: only 1 is known")
    if channels % GROUPS:
        raise ValueError(f"ch is {channels}, no multiple of the {GROUPS} groups of a norm")


class TamingConfig(CheckpointConfig):
    """``model.params`` of a run of taming-transformers or of latent diffusion."""

    irrelevant: ClassVar[frozenset[str]] = frozenset(
        {"lossconfig", "ckpt_path", "ignore_keys", "image_key", "colorize_nlabels", "monitor"}
        | {"sane_index_shape", "batch_resize_range", "scheduler_config", "lr_g_factor", "use_ema"}
    )

    ddconfig: ConvolutionsConfig
    n_embed: int = Field(ge=2)
    embed_dim: PositiveInt
    # A file that renumbers the codes.
    remap: None = None

    @classmethod
    def of(cls, values: Mapping[str, Any], source: str) -> Self:
        return super().of(model_arguments(values), source)


class IBQConfig(TamingConfig):
    """``model.init_args`` of a run of IBQ."""

    irrelevant: ClassVar[frozenset[str]] = TamingConfig.irrelevant | {
        *("learning_rate", "l2_normalize", "cosine_similarity", "beta", "use_entropy_loss", "stage"),
        *("sample_minimization_weight", "batch_maximization_weight", "entropy_temperature"),
        *("warmup_epochs", "scheduler_type", "min_learning_rate", "gradient_clip_val", "resume_lr"),
        *("lr_drop_epoch", "lr_drop_rate", "use_shared_epoch", "lr_drop_iter"),
        *("sche_type", "wpe", "wp", "wp0", "max_iter", "wp_iter"),
    }


class LlamaGenConfig(CheckpointConfig):
    """``ModelArgs`` of LlamaGen's tokenizers, with its defaults: those of VQ-16."""

    irrelevant: ClassVar[frozenset[str]] = frozenset(
        {"codebook_show_usage", "commit_loss_beta", "entropy_loss_ratio", "dropout_p"}
    )

    codebook_size: int = Field(default=16_384, ge=2)
    codebook_embed_dim: PositiveInt = 8
    codebook_l2_norm: bool = True
    encoder_ch_mult: tuple[PositiveInt, ...] = Field(default=(1, 1, 2, 2, 4), min_length=1)
    decoder_ch_mult: tuple[PositiveInt, ...] = Field(default=(1, 1, 2, 2, 4), min_length=1)
    z_channels: PositiveInt = 256

    @model_validator(mode="after")
    def _networks_agree(self) -> Self:
        check_convolutions(LLAMAGEN_CHANNELS, self.encoder_ch_mult, 3, 3)
        if self.encoder_ch_mult != self.decoder_ch_mult:
            raise ValueError(
                f"encoder_ch_mult is {list(self.encoder_ch_mult)}, decoder_ch_mult is "
                f"{list(self.decoder_ch_mult)}"
            )
        return self


class VQGAN(Architecture):
    """Encoder, quantizer and decoder, with a 1x1 convolution on each side of the lookup.

    ``factors`` times ``channels`` are the channels of each stage, ``attentions`` say which have attention, in
    the encoder's order.
    """

    def __init__(
        self,
        quantizer: Quantizer,
        *,
        images: Literal[1, 3],
        latents: int,
        channels: int,
        factors: Sequence[int],
        blocks: int,
        attentions: Sequence[bool],
    ) -> None:
        super().__init__()
        widths = [channels * factor for factor in factors]
        self.image_channels, self.latent_channels = images, quantizer.dim
        self.stride = self.multiple_of = 2 ** (len(widths) - 1)
        self.encoder = Encoder(images, latents, widths, GROUPS, blocks=blocks, attentions=attentions)
        self.quant_conv = nn.Conv2d(latents, quantizer.dim, 1)
        self.quantizer = quantizer
        self.post_quant_conv = nn.Conv2d(quantizer.dim, latents, 1)
        self.decoder = Decoder(latents, images, widths, GROUPS, blocks=blocks, attentions=attentions[::-1])

    def encode(self, pixels: Tensor) -> Tensor:
        z: Tensor = self.quant_conv(self.encoder(pixels))
        return z

    def decode(self, z: Tensor) -> Tensor:
        pixels: Tensor = self.decoder(self.post_quant_conv(z))
        return pixels


class TamingVQGAN(VQGAN):
    """The VQGAN of taming-transformers, and of latent diffusion (2112.10752)."""

    lookup: ClassVar[type[Codebook]] = Codebook

    def __init__(self, config: TamingConfig) -> None:
        net = config.ddconfig
        super().__init__(
            self.lookup(config.n_embed, config.embed_dim),
            images=net.in_channels,
            latents=net.z_channels,
            channels=net.ch,
            factors=net.ch_mult,
            blocks=net.num_res_blocks,
            attentions=net.attentions,
        )
        self.size = net.resolution
        # The stages of the decoder have the numbers of the encoder's in such checkpoints.
        last = len(net.ch_mult) - 1
        self.renames = tuple(
            (rf"^decoder\.stages\.{number}\.", f"decoder.up.{last - number}.") for number in range(last + 1)
        )


class IBQ(TamingVQGAN):
    """The VQGAN of IBQ, whose code is that of the largest inner product with z."""

    lookup = InnerProducts


class LlamaGenVQGAN(VQGAN):
    """The VQGAN of LlamaGen: attention at the smallest size, code vectors on the unit sphere."""

    def __init__(self, config: LlamaGenConfig) -> None:
        stages = len(config.encoder_ch_mult)
        super().__init__(
            Codebook(config.codebook_size, config.codebook_embed_dim, normalise=config.codebook_l2_norm),
            images=3,
            latents=config.z_channels,
            channels=LLAMAGEN_CHANNELS,
            factors=config.encoder_ch_mult,
            blocks=LLAMAGEN_BLOCKS,
            attentions=[stage == stages - 1 for stage in range(stages)],
        )
        self.size = LLAMAGEN_SIZE
