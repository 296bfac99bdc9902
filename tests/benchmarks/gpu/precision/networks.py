"""The networks that are measured, committed and large ones, with weights that are the same anywhere.

Each takes what its graph takes, computes in the dtype that its layers have, and does the lookup in float32.
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from safetensors.torch import load_file
from torch import Tensor, nn

from service.contract.manifest import ImageSpec
from tests.benchmarks.gpu.sessions import Array
from trainer.config import resolve
from trainer.export.onnx_export import CODEBOOK_FILE, CODEBOOK_TENSOR
from trainer.models.base import build, to_pixels, to_unit
from trainer.models.vqvae import VQVAE

# The encoder of Stable Diffusion's autoencoder: channels of each resolution, and layers at each.
SD_CHANNELS, SD_LAYERS, SD_GROUPS, SD_SIZE = (128, 256, 512, 512), 2, 32, 256
SMALL_CHANNELS, SMALL_GROUPS, SMALL_SIZE = (8, 8), 4, 32


class Encode(nn.Module):
    """Images, uint8 ``(N, H, W, C)``, to codes, int32 ``(N, h, w)``, looked up as in a graph for a GPU."""

    def __init__(self, model: VQVAE) -> None:
        super().__init__()
        self.encoder, self.quantizer = model.encoder, model.quantizer.serving()

    def forward(self, images: Tensor) -> Tensor:
        dtype = next(self.encoder.parameters()).dtype
        z = self.encoder(to_unit(images.permute(0, 3, 1, 2)).to(dtype))
        return self.quantizer.encode_on_gpu(z.float()).int()

    def layers(self) -> nn.Module:
        return self.encoder


class Decode(nn.Module):
    """Codes, int32 ``(N, h, w)``, to images, uint8 ``(N, H, W, C)``."""

    def __init__(self, model: VQVAE) -> None:
        super().__init__()
        self.decoder, self.quantizer = model.decoder, model.quantizer.serving()

    def forward(self, codes: Tensor) -> Tensor:
        dtype = next(self.decoder.parameters()).dtype
        return to_pixels(self.decoder(self.quantizer.embed(codes).to(dtype))).permute(0, 2, 3, 1)

    def layers(self) -> nn.Module:
        return self.decoder


class Norm(nn.GroupNorm):
    """Group normalisation, then SiLU if ``silu``: ``(B, C, h, w)`` to the same."""

    def __init__(self, groups: int, channels: int, *, silu: bool = True) -> None:
        super().__init__(groups, channels, eps=1e-6)
        self.silu = silu

    def forward(self, x: Tensor) -> Tensor:
        normal = super().forward(x)
        return F.silu(normal) if self.silu else normal


class Residual(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), ``(B, C, h, w)`` to ``(B, C', h, w)``."""

    def __init__(self, channels: int, out: int, groups: int) -> None:
        super().__init__()
        self.first = nn.Sequential(Norm(groups, channels), nn.Conv2d(channels, out, 3, padding=1))
        self.second = nn.Sequential(Norm(groups, out), nn.Conv2d(out, out, 3, padding=1))
        self.skip = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.second(self.first(x))


class Attention(nn.Module):
    """Attention of one head over all positions, ``(B, C, h, w)`` to the same."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = Norm(groups, channels, silu=False)
        self.query, self.key, self.value, self.out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        normal = self.norm(x)
        query, key, value = (
            layer(normal).flatten(2).transpose(1, 2).unsqueeze(1)
            for layer in (self.query, self.key, self.value)
        )
        if torch.compiler.is_exporting():
            # Torch's own operation is exported with computed shapes, which ONNX Runtime leaves to the CPU.
            weights = (query @ key.transpose(2, 3) / math.sqrt(x.shape[1])).softmax(dim=-1)
            mixed = weights @ value
        else:
            mixed = F.scaled_dot_product_attention(query, key, value)
        return x + self.out(mixed.squeeze(1).transpose(1, 2).unflatten(2, x.shape[2:]))


class LatentEncode(nn.Module):
    """Images, uint8 ``(N, H, W, 3)``, to means, float32 ``(N, 4, h, w)``, as in 2112.10752.

    It halves with padding on all sides, where the original has it on two.
    """

    def __init__(self, channels: tuple[int, ...] = SD_CHANNELS, groups: int = SD_GROUPS) -> None:
        super().__init__()
        width = channels[0]
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1)]
        for level, out in enumerate(channels):
            layers += [Residual(out if layer else width, out, groups) for layer in range(SD_LAYERS)]
            layers += [nn.Conv2d(out, out, 3, stride=2, padding=1)] if level < len(channels) - 1 else []
            width = out
        layers += [Residual(width, width, groups), Attention(width, groups)]
        layers += [Residual(width, width, groups)]
        layers += [Norm(groups, width), nn.Conv2d(width, 8, 3, padding=1)]
        self.encoder = nn.Sequential(*layers, nn.Conv2d(8, 8, 1))

    def forward(self, images: Tensor) -> Tensor:
        dtype = next(self.encoder.parameters()).dtype
        return self.encoder(to_unit(images.permute(0, 3, 1, 2)).to(dtype))[:, :4].float()

    def layers(self) -> nn.Module:
        return self.encoder


Network = Encode | Decode | LatentEncode


@dataclass(frozen=True)
class Case:
    """A network under its name, and the shape of one row of its input.

    ``make`` takes the folder of the exported models and gives the network in float32. With ``half_of``,
    a case of the same network, the graph is the one that the trainer makes in float16 of that in float32.
    """

    name: str
    make: Callable[[Path], Network]
    row: tuple[int, ...]
    input: str = "images"
    values: int = 256
    half_of: str | None = None

    def feed(self, rows: int) -> dict[str, Array]:
        """Random inputs of ``rows`` rows; images are in blocks of 4x4 pixels."""
        rng = np.random.default_rng(rows)
        if self.input == "codes":
            return {"codes": rng.integers(0, self.values, (rows, *self.row), np.int32)}
        height, width, channels = self.row
        blocks = rng.integers(0, self.values, (rows, height // 4, width // 4, channels), np.uint8)
        return {"images": blocks.repeat(4, axis=1).repeat(4, axis=2)}


def _mnist(models: Path) -> VQVAE:
    """The committed VQ-VAE, from the weights in its graphs."""
    model = _vqvae("vqvae-mnist", ImageSpec(channels=1, height=28, width=28))
    folder = models / "vqvae-mnist"
    weights: dict[str, Tensor] = {
        "quantizer.codebook": load_file(folder / CODEBOOK_FILE)[CODEBOOK_TENSOR],
    }
    for file in ("encoder.onnx", "decoder.onnx"):
        for item in onnx.load(folder / file).graph.initializer:
            if item.name.startswith(("encoder.", "decoder.")):
                weights[item.name] = torch.from_numpy(numpy_helper.to_array(item).copy())
    missing = set(model.state_dict()) - set(weights)
    if unknown := {name for name in missing if name.startswith(("encoder.", "decoder."))}:
        raise ValueError(f"the graphs of {folder} lack {', '.join(sorted(unknown))}")
    model.load_state_dict(weights, strict=False)
    return model.eval()


def _vqvae(preset: str, image: ImageSpec) -> VQVAE:
    model = build(resolve("vqvae", preset=preset, flags={}), image, 0.1)
    assert isinstance(model, VQVAE)
    return model.eval()


def seeded(module: Network) -> Network:
    """The module with random weights that keep the scale of what passes, the same on any machine."""
    rng = np.random.default_rng(0)
    for name, value in sorted(module.layers().state_dict().items()):
        drawn = torch.from_numpy(rng.standard_normal(tuple(value.shape), dtype=np.float32))
        if value.ndim > 1:
            value.copy_(drawn / math.sqrt(value[0].numel()))
        elif name.endswith("bias"):
            value.copy_(drawn / 10)
    if isinstance(module, Encode):
        codebook = module.quantizer.codebook
        drawn = torch.from_numpy(rng.standard_normal(tuple(codebook.shape), dtype=np.float32))
        codebook.copy_(F.normalize(drawn))
    return module.eval()


CASES: Mapping[str, Case] = {
    case.name: case
    for case in (
        Case("vqvae-mnist-encode", lambda models: Encode(_mnist(models)), (28, 28, 1)),
        Case(
            "sd-encode-fused",
            lambda _: seeded(LatentEncode()),
            (SD_SIZE, SD_SIZE, 3),
            half_of="sd-encode",
        ),
        Case(
            "vqvae-128-encode",
            lambda _: seeded(Encode(_vqvae("vqvae-naruto", ImageSpec(channels=3, height=128, width=128)))),
            (128, 128, 3),
        ),
        Case("sd-encode", lambda _: seeded(LatentEncode()), (SD_SIZE, SD_SIZE, 3)),
        Case("vqvae-mnist-decode", lambda models: Decode(_mnist(models)), (7, 7), "codes", 512),
    )
}
SMALL_FUSED = Case(
    "small-encode-fused",
    lambda _: seeded(LatentEncode(SMALL_CHANNELS, SMALL_GROUPS)),
    (SMALL_SIZE, SMALL_SIZE, 3),
    half_of="small-encode",
)
SMALL: Mapping[str, Case] = {
    "vqvae-mnist-encode": CASES["vqvae-mnist-encode"],
    "vqvae-mnist-decode": CASES["vqvae-mnist-decode"],
    "small-encode": Case(
        "small-encode",
        lambda _: seeded(LatentEncode(SMALL_CHANNELS, SMALL_GROUPS)),
        (SMALL_SIZE, SMALL_SIZE, 3),
    ),
}


def in_dtype(case: Case, models: Path, dtype: torch.dtype) -> Network:
    """A network of its own, its layers but not its lookup in a dtype."""
    network = copy.deepcopy(in_float32(case, models))
    network.layers().to(dtype)
    return network


@cache
def in_float32(case: Case, models: Path) -> Network:
    """The network of a case, made once: a large one takes seconds. Not to be changed."""
    return case.make(models)
