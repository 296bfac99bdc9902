"""TiTok (2406.07550): images to a sequence of tokens and back, by transformers.

    patches, latent tokens ──> transformer ──> its outputs at the latent tokens ──> codes
    image <── from its outputs at the mask tokens <── transformer <── code vectors, mask tokens

Images have one size, as each patch has a position of its own.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from trainer.config import CheckpointConfig
from trainer.config.imported import inside
from trainer.models.quantizers import Codebook
from trainer.pretrained.architectures.base import Architecture
from trainer.pretrained.architectures.blocks import EPSILON, ResnetBlock, Upsample

Name = Literal["small", "base", "large"]


class Size(NamedTuple):
    """The channels, layers and heads of a transformer."""

    width: int
    layers: int
    heads: int


class PixelCodes(NamedTuple):
    """The VQGAN of MaskGIT (2202.04200): its codes, their dimensions and its decoder."""

    codes: int
    dim: int
    widths: tuple[int, ...]
    groups: int
    blocks: int


# TiTok has both in its code rather than in its config.
SIZES: dict[Name, Size] = {"small": Size(512, 8, 8), "base": Size(768, 12, 12), "large": Size(1024, 24, 16)}
MASKGIT = PixelCodes(codes=1024, dim=256, widths=(128, 128, 256, 256, 512), groups=32, blocks=2)


class TiTokConfig(CheckpointConfig):
    """``model.vq_model`` of a TiTok, and ``crop_size``, that of its images in pixels.

    ``is_legacy`` are the first models, which decode to the codes of MaskGIT's VQGAN, whose decoder is in a
    checkpoint that was finetuned with it.
    """

    irrelevant: ClassVar[frozenset[str]] = frozenset({"commitment_cost", "clustering_vq"})

    codebook_size: int | None = Field(default=None, ge=2)
    token_size: PositiveInt
    num_latent_tokens: PositiveInt
    use_l2_norm: bool | None = None
    vit_enc_model_size: Name
    vit_dec_model_size: Name
    vit_enc_patch_size: PositiveInt
    vit_dec_patch_size: PositiveInt
    quantize_mode: Literal["vq", "vae"] = "vq"
    is_legacy: bool = True
    finetune_decoder: bool = True
    crop_size: PositiveInt

    @classmethod
    def of(cls, values: Mapping[str, Any], source: str) -> Self:
        tokenizer = inside(values, "model", "vq_model")
        size = inside(values, "dataset", "preprocessing", "crop_size")
        given = tokenizer if isinstance(tokenizer, Mapping) else values
        return super().of(given if size is None else {**given, "crop_size": size}, source)

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        for patch in (self.vit_enc_patch_size, self.vit_dec_patch_size):
            if self.crop_size % patch:
                raise ValueError(f"crop_size is {self.crop_size}, no multiple of patches of {patch} pixels")
        if self.is_legacy and self.vit_dec_patch_size != 2 ** (len(MASKGIT.widths) - 1):
            raise ValueError(f"vit_dec_patch_size is {self.vit_dec_patch_size}: with is_legacy it is 16")
        if self.quantize_mode == "vq" and None in (self.codebook_size, self.use_l2_norm):
            raise ValueError("codebook_size and use_l2_norm are missing, which quantize_mode vq asks for")
        if self.quantize_mode == "vae" and self.is_legacy:
            raise ValueError("is_legacy is true, which quantize_mode vae does not allow")
        if self.is_legacy != self.finetune_decoder:
            raise ValueError(
                "finetune_decoder is false, so the decoder to pixels is in another checkpoint"
                if self.is_legacy
                else "finetune_decoder is for is_legacy"
            )
        return self


class FeedForward(nn.Module):
    """Four times the width, and back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x)))


class ResidualAttentionBlock(nn.Module):
    """Attention, and then a feed-forward layer, each after a layer norm and added to what came in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = FeedForward(width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.ln_1(x)
        x = x + self.attn(h, h, h, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """What the encoder and the decoder share: patches and latent tokens that attend to each other."""

    def __init__(self, size: Size, patches: int, tokens: int) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.empty(1, size.width))
        self.positional_embedding = nn.Parameter(torch.empty(patches + 1, size.width))
        self.latent_token_positional_embedding = nn.Parameter(torch.empty(tokens, size.width))
        self.ln_pre = nn.LayerNorm(size.width)
        self.transformer = nn.ModuleList(
            [ResidualAttentionBlock(size.width, size.heads) for _ in range(size.layers)]
        )
        self.ln_post = nn.LayerNorm(size.width)

    def attended(self, patches: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, P, width)`` and ``(B, T, width)`` to the same."""
        count = patches.shape[1]
        first = self.class_embedding.expand(patches.shape[0], 1, -1)
        x = torch.cat([first, patches], dim=1) + self.positional_embedding
        x = self.ln_pre(torch.cat([x, tokens + self.latent_token_positional_embedding], dim=1))
        for block in self.transformer:
            x = block(x)
        x = self.ln_post(x)
        return x[:, 1 : 1 + count], x[:, 1 + count :]


class Encoder(Transformer):
    """Pixels in [0, 1], float ``(B, 3, H, W)``, and latent tokens ``(T, width)`` to z ``(B, D, 1, T)``."""

    def __init__(self, config: TiTokConfig) -> None:
        size, patch = SIZES[config.vit_enc_model_size], config.vit_enc_patch_size
        super().__init__(size, (config.crop_size // patch) ** 2, config.num_latent_tokens)
        self.legacy = config.is_legacy
        self.patch_embed = nn.Conv2d(3, size.width, patch, stride=patch)
        # Of a VAE the means and the log-variances.
        outputs = config.token_size * (2 if config.quantize_mode == "vae" else 1)
        self.conv_out = nn.Conv2d(size.width, outputs, 1)

    def forward(self, pixels: Tensor, latent_tokens: Tensor) -> Tensor:
        patches = self.patch_embed(pixels).flatten(2).transpose(1, 2)
        _, tokens = self.attended(patches, latent_tokens.expand(pixels.shape[0], -1, -1))
        batch, count, width = tokens.shape
        if self.legacy:
            # Not transposed: the first models were trained with their outputs in this order.
            return self.conv_out(tokens.reshape(batch, width, 1, count))
        return self.conv_out(tokens.transpose(1, 2).unsqueeze(2))


class Decoder(Transformer):
    """Code vectors ``(B, D, 1, T)`` to pixels in [0, 1], ``(B, 3, H, W)``.

    A legacy decoder gives the logits of pixel codes instead, ``(B, codes, h, w)``.
    """

    def __init__(self, config: TiTokConfig) -> None:
        size, patch = SIZES[config.vit_dec_model_size], config.vit_dec_patch_size
        self.patch, self.side = patch, config.crop_size // patch
        super().__init__(size, self.side**2, config.num_latent_tokens)
        self.decoder_embed = nn.Linear(config.token_size, size.width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, size.width))
        if config.is_legacy:
            wide, codes = 2 * size.width, MASKGIT.codes
            self.ffn = nn.Sequential(nn.Conv2d(size.width, wide, 1), nn.Tanh(), nn.Conv2d(wide, codes, 1))
            self.conv_out: nn.Module = nn.Identity()
        else:
            self.ffn = nn.Sequential(nn.Conv2d(size.width, 3 * patch**2, 1), FromPatches(patch))
            self.conv_out = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, vectors: Tensor) -> Tensor:
        masks = self.mask_token.expand(vectors.shape[0], self.side**2, -1)
        patches, _ = self.attended(masks, self.decoder_embed(vectors.squeeze(2).transpose(1, 2)))
        return self.conv_out(self.ffn(patches.transpose(1, 2).unflatten(2, (self.side, self.side))))


class FromPatches(nn.Module):
    """Patches as channels, ``(B, p * p * 3, h, w)``, row by row, to ``(B, 3, h * p, w * p)``."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        pixels = x.view(batch, self.patch, self.patch, 3, height, width).permute(0, 3, 4, 1, 5, 2)
        return pixels.reshape(batch, 3, height * self.patch, width * self.patch)


class PixelBlock(ResnetBlock):
    """The residual block of MaskGIT's VQGAN, whose shortcut is of conv2's output, not of its input."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__(channels, outputs, MASKGIT.groups, bias=False)
        self.changes = channels != outputs
        if self.changes:
            self.shortcut = nn.Conv2d(outputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.shortcut(h) if self.changes else x)


class PixelStage(nn.Module):
    """Residual blocks at one resolution, and ``resample``."""

    def __init__(self, channels: int, outputs: int, resample: nn.Module) -> None:
        super().__init__()
        inputs = (channels, *[outputs] * (MASKGIT.blocks - 1))
        self.block = nn.Sequential(*(PixelBlock(each, outputs) for each in inputs))
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        return self.resample(self.block(x))


class PixelDecoder(nn.Module):
    """The decoder of MaskGIT's VQGAN: ``(B, dim, h, w)`` to pixels in [0, 1], ``(B, 3, 16 h, 16 w)``."""

    def __init__(self) -> None:
        super().__init__()
        widths = MASKGIT.widths
        self.conv_in = nn.Conv2d(MASKGIT.dim, widths[-1], 3, padding=1)
        self.mid = nn.ModuleList([PixelBlock(widths[-1], widths[-1]) for _ in range(MASKGIT.blocks)])
        self.up = nn.ModuleList()
        for number, (width, before) in enumerate(pairwise([*widths, widths[-1]])):
            self.up.append(PixelStage(before, width, Upsample(width) if number else nn.Identity()))
        self.norm_out = nn.GroupNorm(MASKGIT.groups, widths[0], EPSILON)
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for part in (*self.mid, *reversed(self.up)):
            x = part(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class TiTok(Architecture):
    """Encoder, codebook and decoder of a sequence of tokens; a VAE's tokens have a posterior, no codebook."""

    multiple_of, stride = None, None
    untiled = "every code is one of the whole image"

    def __init__(self, config: TiTokConfig) -> None:
        super().__init__()
        self.size, self.latent_channels = config.crop_size, config.token_size
        self.sequence_length = config.num_latent_tokens
        self.latent_tokens = nn.Parameter(
            torch.empty(config.num_latent_tokens, SIZES[config.vit_enc_model_size].width)
        )
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.posterior = config.quantize_mode == "vae"
        if not self.posterior:
            size, normalise = config.codebook_size or 0, bool(config.use_l2_norm)
            self.quantizer = Codebook(size, config.token_size, normalise=normalise)
        self.pixel_decoder: PixelDecoder | None = None
        if config.is_legacy:
            self.pixel_codebook = nn.Parameter(torch.empty(MASKGIT.codes, MASKGIT.dim))
            self.pixel_decoder = PixelDecoder()

    def encode(self, pixels: Tensor) -> Tensor:
        z: Tensor = self.encoder((pixels + 1) / 2, self.latent_tokens)
        return z

    def decode(self, z: Tensor) -> Tensor:
        decoded: Tensor = self.decoder(z)
        if self.pixel_decoder is not None:
            # The mean of the code vectors under the logits.
            cells = decoded.softmax(dim=1).movedim(1, -1) @ self.pixel_codebook
            decoded = self.pixel_decoder(cells.movedim(-1, 1))
        return decoded * 2 - 1
