"""TiTok (2406.07550): images to a sequence of tokens and back, by transformers.

    patches and latent tokens ──> transformer ──> its outputs at the latent tokens ──> code vectors
    image <── from its outputs at the mask tokens <── transformer <── code vectors and mask tokens

The modules have the names of the published state dicts. A model takes images of one size alone, as each patch
has a position of its own.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.pretrained.architectures.vqgan import ResidualBlock, group_norm


class Size(NamedTuple):
    """The size of a vision transformer: channels, layers and heads."""

    width: int
    layers: int
    heads: int


class PixelTokenizer(NamedTuple):
    """The VQGAN of MaskGIT (2202.04200) whose codes a legacy model decodes to: codes, and its decoder."""

    codes: int
    dim: int
    widths: tuple[int, ...]
    blocks: int


MASKGIT = PixelTokenizer(codes=1024, dim=256, widths=(128, 128, 256, 256, 512), blocks=2)
SIZES = {"small": Size(512, 8, 8), "base": Size(768, 12, 12), "large": Size(1024, 24, 16)}


class SelfAttention(nn.Module):
    """Attention of all tokens to all, ``(B, L, width)``; the projections are those of ``MultiheadAttention``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        projected = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = projected.view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(attended.transpose(1, 2).reshape(batch, length, width))


class FeedForward(nn.Module):
    """Four times the width and back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x)))


class ResidualAttentionBlock(nn.Module):
    """Attention, then a feed-forward layer, each after a layer norm and added to what came in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = SelfAttention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = FeedForward(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """What encoder and decoder share: a class token, positions, layers between two layer norms."""

    def __init__(self, size: Size, patches: int, tokens: int) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.empty(1, size.width))
        self.positional_embedding = nn.Parameter(torch.empty(patches + 1, size.width))
        self.latent_token_positional_embedding = nn.Parameter(torch.empty(tokens, size.width))
        self.ln_pre = nn.LayerNorm(size.width)
        self.transformer = nn.ModuleList(
            ResidualAttentionBlock(size.width, size.heads) for _ in range(size.layers)
        )
        self.ln_post = nn.LayerNorm(size.width)

    def run(self, patches: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, P, width)`` and ``(B, T, width)`` to the same, attending to each other."""
        start = self.class_embedding.expand(patches.shape[0], 1, -1)
        x = torch.cat([start, patches], dim=1) + self.positional_embedding
        x = self.ln_pre(torch.cat([x, tokens + self.latent_token_positional_embedding], dim=1))
        for block in self.transformer:
            x = block(x)
        x, count = self.ln_post(x), patches.shape[1]
        return x[:, 1 : 1 + count], x[:, 1 + count :]


class TiTokEncoder(Transformer):
    """Images, float ``(B, 3, H, W)`` in [0, 1], and latent tokens ``(T, width)`` to latents ``(B, D, 1, T)``.

    With ``legacy`` the outputs are read in the order of memory as ``(width, T)`` though they are ``(T,
    width)``, as the first models were trained.
    """

    def __init__(self, size: Size, patch: int, patches: int, tokens: int, dim: int, *, legacy: bool) -> None:
        super().__init__(size, patches, tokens)
        self.legacy = legacy
        self.patch_embed = nn.Conv2d(3, size.width, patch, stride=patch)
        self.conv_out = nn.Conv2d(size.width, dim, 1)

    def forward(self, images: Tensor, latent_tokens: Tensor) -> Tensor:
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)
        _, tokens = self.run(patches, latent_tokens.expand(images.shape[0], -1, -1))
        batch, count, width = tokens.shape
        if self.legacy:
            tokens = tokens.reshape(batch, width, 1, count)
        else:
            tokens = tokens.transpose(1, 2).unsqueeze(2)
        return self.conv_out(tokens)


class TiTokDecoder(Transformer):
    """Code vectors, float ``(B, D, 1, T)``, to what an image is made of.

    With ``legacy`` these are the logits of a MaskGIT-VQGAN's 1,024 codes, ``(B, 1024, h, w)``; without, the
    image itself, ``(B, 3, H, W)``.
    """

    def __init__(
        self, size: Size, patch: int, patches: int, tokens: int, dim: int, *, codes: int | None
    ) -> None:
        super().__init__(size, patches, tokens)
        self.side = int(patches**0.5)
        self.patch = patch
        self.decoder_embed = nn.Linear(dim, size.width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, size.width))
        if codes is not None:
            layers = (nn.Conv2d(size.width, 2 * size.width, 1), nn.Tanh(), nn.Conv2d(2 * size.width, codes, 1))
            self.ffn = nn.Sequential(*layers)
            self.conv_out: nn.Conv2d | None = None
        else:
            self.ffn = nn.Sequential(nn.Conv2d(size.width, 3 * patch * patch, 1))
            self.conv_out = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, vectors: Tensor) -> Tensor:
        tokens = self.decoder_embed(vectors.squeeze(2).transpose(1, 2))
        masks = self.mask_token.expand(vectors.shape[0], self.side**2, -1)
        patches, _ = self.run(masks, tokens)
        grid = self.ffn(patches.transpose(1, 2).unflatten(2, (self.side, self.side)))
        return grid if self.conv_out is None else self.conv_out(self._pixels(grid))

    def _pixels(self, grid: Tensor) -> Tensor:
        """Patches as channels, ``(B, patch * patch * 3, h, w)``, row by row, to ``(B, 3, H, W)``."""
        side, patch = self.side, self.patch
        pixels = grid.view(-1, patch, patch, 3, side, side).permute(0, 3, 4, 1, 5, 2)
        return pixels.reshape(-1, 3, side * patch, side * patch)


class PixelBlock(ResidualBlock):
    """The residual block of MaskGIT's VQGAN, whose shortcut is of the block's output, not of its input."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)
        if inputs != outputs:
            self.nin_shortcut = nn.Conv2d(outputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.residual(x)
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(h))


class PixelLevel(nn.Module):
    """Residual blocks of one size, then twice the height and width if there is a level above."""

    def __init__(self, inputs: int, width: int, blocks: int, *, last: bool) -> None:
        super().__init__()
        pairs = [(inputs, width), *[(width, width)] * (blocks - 1)]
        self.block = nn.ModuleList(PixelBlock(*pair) for pair in pairs)
        self.upsample_conv = None if last else nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        if self.upsample_conv is None:
            return x
        return self.upsample_conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class PixelDecoder(nn.Module):
    """The decoder of MaskGIT's VQGAN (2202.04200): ``(B, latents, h, w)`` to images in about [0, 1]."""

    def __init__(self, latents: int, widths: tuple[int, ...], blocks: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(latents, widths[-1], 3, padding=1)
        self.mid = nn.ModuleList(PixelBlock(widths[-1], widths[-1]) for _ in range(blocks))
        pairs = zip(widths, (*widths[1:], widths[-1]), strict=True)
        self.up = nn.ModuleList(
            PixelLevel(before, width, blocks, last=number == 0) for number, (width, before) in enumerate(pairs)
        )
        self.norm_out = group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for part in (*self.mid, *reversed(self.up)):
            h = part(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class TiTok(nn.Module):
    """Encoder and decoder of a sequence of ``tokens`` tokens of ``dim`` dimensions.

    Images are ``side`` pixels wide and high, in [0, 1], in patches of ``patches`` pixels. With ``gaussian`` the
    tokens are continuous: the encoder gives a mean and a variance each. With ``legacy`` the image is made by a
    MaskGIT-VQGAN's decoder, from the mean of its code vectors under the transformer's probabilities.
    """

    def __init__(
        self,
        *,
        side: int,
        patches: tuple[int, int],
        sizes: tuple[Size, Size],
        tokens: int,
        dim: int,
        gaussian: bool,
        legacy: bool,
    ) -> None:
        super().__init__()
        self.gaussian = gaussian
        (encoded, decoded), pixels = ((side // patch) ** 2 for patch in patches), MASKGIT if legacy else None
        self.latent_tokens = nn.Parameter(torch.empty(tokens, sizes[0].width))
        self.encoder = TiTokEncoder(
            sizes[0], patches[0], encoded, tokens, dim * 2 if gaussian else dim, legacy=legacy
        )
        self.decoder = TiTokDecoder(
            sizes[1], patches[1], decoded, tokens, dim, codes=pixels.codes if pixels else None
        )
        self.pixel_quantize = nn.ModuleDict()
        self.pixel_decoder: PixelDecoder | None = None
        if pixels is not None:
            self.pixel_quantize["embedding"] = nn.Embedding(pixels.codes, pixels.dim)
            self.pixel_decoder = PixelDecoder(pixels.dim, pixels.widths, pixels.blocks)

    def encode(self, images: Tensor) -> Tensor:
        """Images, float ``(B, 3, H, W)`` in [0, 1], to what is looked up, or to means, ``(B, dim, 1, T)``."""
        latents: Tensor = self.encoder(images, self.latent_tokens)
        return latents.chunk(2, dim=1)[0] if self.gaussian else latents

    def decode(self, vectors: Tensor) -> Tensor:
        """Code vectors, float ``(B, dim, 1, T)``, to images ``(B, 3, H, W)``, in [0, 1] but not clamped."""
        made: Tensor = self.decoder(vectors)
        if self.pixel_decoder is None:
            return made
        cells = made.softmax(dim=1).movedim(1, -1) @ self.pixel_quantize["embedding"].weight
        return self.pixel_decoder(cells.movedim(-1, 1))
