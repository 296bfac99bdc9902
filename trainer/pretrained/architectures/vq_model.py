"""The VQGAN of latent diffusion: images to a grid of codes and back (2012.09841, 2112.10752).

Its config is that of diffusers' ``VQModel``.
"""

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from trainer.models.quantizers import Codebook
from trainer.pretrained.architectures.autoencoder_kl import StagesConfig
from trainer.pretrained.architectures.base import Architecture


class VQModelConfig(StagesConfig):
    """``config.json`` of a ``VQModel``."""

    irrelevant: ClassVar[frozenset[str]] = StagesConfig.irrelevant | {
        "scaling_factor",
        "lookup_from_codebook",
    }

    latent_channels: PositiveInt = 3
    num_vq_embeddings: int = Field(default=256, ge=2)
    vq_embed_dim: PositiveInt | None = None
    norm_type: Literal["group"] = "group"


class VQModel(Architecture):
    """Encoder, 1x1 convolution, codebook, 1x1 convolution, decoder."""

    def __init__(self, config: VQModelConfig) -> None:
        super().__init__()
        channels, dim = config.latent_channels, config.vq_embed_dim or config.latent_channels
        self.encoder = config.encoder(channels)
        self.quant_conv = nn.Conv2d(channels, dim, 1)
        self.quantizer = Codebook(config.num_vq_embeddings, dim)
        self.post_quant_conv = nn.Conv2d(dim, channels, 1)
        self.decoder = config.decoder(channels)
        self.image_channels = config.in_channels
        self.latent_channels = dim
        self.size = config.sample_size
        self.stride = self.multiple_of = config.stride

    def encode(self, pixels: Tensor) -> Tensor:
        return self.quant_conv(self.encoder(pixels))

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(z))
