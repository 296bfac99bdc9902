"""VQ-VAE: images to a grid of codes and back (van den Oord et al., 1711.00937)."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.contract.manifest import CodesSpec, ImageSpec, Input, Output, Role
from trainer.config import VQVAEConfig
from trainer.data.augmentation import flipped
from trainer.data.distributed import gathered
from trainer.models.adversarial.adversary import PLOTTED, Adversary
from trainer.models.adversarial.discriminator import check_size
from trainer.models.base import Graph, Model, Step, to_pixels, to_unit
from trainer.models.code_prior.stage import PriorStage
from trainer.models.layers.convolutional import Decoder, Encoder
from trainer.models.onnx_scan import Chain, Loop, Tensors
from trainer.models.quantizers import FSQ, Codebook, LearnedCodebook, Quantizer, perplexity, usage
from trainer.models.quantizers.lookup import Table, block_rows, look_up, nearest_on_gpu

# Encoder outputs for each code: enough for its k-means centre to mean something.
ROWS_PER_CODE = 64
# A codebook collapses if after some epochs less than this share of its codes is in use.
COLLAPSED, COLLAPSED_AFTER = 0.10, 2
COLLAPSE_ADVICE = (
    "What helps: --update ema, --kmeans-start, a higher --restart-below, a smaller --codebook-dim, "
    "--normalise-codes, fewer codes (--codebook-size), a lower --lr, or --fsq-levels instead of a learned "
    "codebook."
)


class VQVAE(Model):
    """Encoder, codebook and decoder.

    The loss is reconstruction / spread + codebook loss + beta x commitment loss, eq. 3, less the losses that
    the quantizer does not have. ``spread`` is the variance of the data's pixels in [0, 1] (its square root
    for the L1 loss), so that beta and the learning rate mean the same on any data.
    """

    plotted = MappingProxyType({"perplexity": (0, None), "usage": (0, 1), **PLOTTED})

    spread: Tensor

    def __init__(self, config: VQVAEConfig, image: ImageSpec, variance: float, _classes: int = 0) -> None:
        super().__init__()
        self.config = config
        self.image = image.model_copy(update={"multiple_of": config.stride})
        if config.adversarial:
            check_size(image.height, image.width, config.discriminator_layers)
        net = config.layers(image)
        self.encoder = Encoder(image.channels, config.codebook_dim, **net)
        self.decoder = Decoder(image.channels, config.codebook_dim, **net, upsampling=config.upsampling)
        self.quantizer = quantizer_for(config)
        spread = variance if config.reconstruction == "mse" else variance**0.5
        self.register_buffer("spread", torch.tensor(spread))

    def forward(self, inputs: Tensor, _labels: Tensor | None = None, /) -> Step:
        target = to_unit(flipped(inputs) if self.training and self.config.flips else inputs)
        quantized = self.quantizer(self.encoder(target))
        # Halved, a distance in [-1, 1] is one in [0, 1].
        pictures = self.decoder(quantized.vectors).float()
        error = (pictures - target) / 2
        reconstruction = error.square().mean() if self.config.reconstruction == "mse" else error.abs().mean()
        loss = reconstruction / self.spread
        losses: dict[str, Tensor] = {self.config.reconstruction: reconstruction.detach()}
        if quantized.commitment_loss is not None:
            loss = loss + self.config.commitment * quantized.commitment_loss
            losses["commitment_loss"] = quantized.commitment_loss.detach()
        if quantized.codebook_loss is not None:
            loss = loss + quantized.codebook_loss
            losses["codebook_loss"] = quantized.codebook_loss.detach()
        opposed = (target, pictures) if self.config.adversarial else None
        return Step(loss, {"loss": loss.detach(), **losses}, quantized.counts, pictures=opposed)

    def opponent(self, steps: int) -> Adversary | None:
        if not self.config.adversarial:
            return None
        return Adversary(self.config, self.decoder, self.image, steps=steps)

    @torch.no_grad()
    def begin(self, batches: Iterable[Tensor]) -> None:
        if not self.config.kmeans_start or self.config.fsq_levels is not None:
            return
        rows: list[Tensor] = []
        for images in batches:
            z = self.encoder(to_unit(images))
            rows.append(gathered(z.permute(0, 2, 3, 1).reshape(-1, self.config.codebook_dim)))
            if sum(map(len, rows)) >= ROWS_PER_CODE * self.config.codebook_size:
                break
        self.quantizer.start(torch.cat(rows), batch_rows=len(rows[0]))

    def count_metrics(self, counts: Tensor) -> dict[str, float]:
        """``perplexity`` and ``usage`` of the codebook."""
        return {"perplexity": perplexity(counts), "usage": usage(counts)}

    def warning(self, record: Mapping[str, float]) -> str | None:
        """Advice against a collapse of the codebook."""
        if record["epoch"] < COLLAPSED_AFTER or record["usage"] >= COLLAPSED:
            return None
        return f"the codebook is collapsing: {record['usage']:.1%} of its codes are in use. {COLLAPSE_ADVICE}"

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        return to_pixels(self.decoder(self.quantizer(self.encoder(to_unit(images))).vectors))

    def image_spec(self) -> ImageSpec:
        return self.image

    def codes_spec(self) -> CodesSpec:
        stride = self.config.stride
        return CodesSpec(
            dtype="int32",
            shape=(self.image.height // stride, self.image.width // stride),
            stride=stride,
            codebook_size=self.config.codebook_size,
            codebook_dim=self.config.codebook_dim,
        )

    def second_stage(self, classes: int) -> PriorStage | None:
        if not self.config.prior_epochs:
            return None
        encode = _Encode(self.encoder, self.quantizer)
        decode = _Decode(self.quantizer, self.decoder)
        # Functions rather than modules: the stage has no weights but its own.
        return PriorStage(
            self.config,
            self.codes_spec(),
            classes,
            encode=lambda images: encode(images.permute(0, 2, 3, 1)),
            decode=lambda codes: decode(codes).permute(0, 3, 1, 2),
        )

    def codebook(self) -> Tensor:
        return self.quantizer.vectors().detach()

    @torch.no_grad()
    def code_gap(self, images: Tensor, codes: Tensor) -> Tensor:
        return self.quantizer.gap(self.encoder(to_unit(images.permute(0, 3, 1, 2))), codes)

    def graphs(self) -> list[Graph]:
        quantizer, codes = self.quantizer.serving(), self.codes_spec()
        return [
            replace(encoding(self.encoder, quantizer, self.image, codes), tiling=self.encoder.tiling()),
            replace(decoding(quantizer, self.decoder, codes), tiling=self.decoder.tiling()),
        ]


def encoding(encoder: nn.Module, quantizer: Quantizer, image: ImageSpec, codes: CodesSpec) -> Graph:
    """The graph ``encode`` of a grid of discrete codes, without its tiling.

    ``encoder`` turns pixels, float32 ``(B, C, H, W)`` in [-1, 1], into the grid that is looked up, float32
    ``(B, D, h, w)``.
    """
    encode = _Encode(encoder, quantizer)
    blocks = _in_blocks(encode, math.prod(codes.shape))
    step = image.multiple_of
    return Graph(
        operation="encode",
        file="encoder.onnx",
        module=blocks or encode,
        # A graph with a loop cannot be captured as a CUDA graph.
        provider_modules={"cuda": _EncodeOnGPU(encode, blocks.quantizer)} if blocks else {},
        examples=(torch.zeros(2, image.height, image.width, image.channels, dtype=torch.uint8),),
        axes=({0: "n"} if step is None else {0: "n", 1: f"{step}*h", 2: f"{step}*w"},),
        inputs=(Input(name="images", role=Role.images),),
        outputs=(Output(name="codes", role=Role.codes),),
        description="The nearest code of each cell of the encoder's grid.",
    )


def decoding(quantizer: Quantizer, decoder: nn.Module, codes: CodesSpec) -> Graph:
    """The graph ``decode`` of a grid of discrete codes, without its tiling.

    ``decoder`` turns code vectors, float32 ``(B, D, h, w)``, into pixels, float32 ``(B, C, H, W)`` in
    [-1, 1].
    """
    return Graph(
        operation="decode",
        file="decoder.onnx",
        module=_Decode(quantizer, decoder),
        examples=(torch.zeros(2, *codes.shape, dtype=torch.int32),),
        axes=({0: "n"} if codes.stride is None else {0: "n", 1: "h", 2: "w"},),
        inputs=(Input(name="codes", role=Role.codes),),
        outputs=(Output(name="images", role=Role.images),),
        description="The decoder's image of a grid of codes.",
    )


class _Encode(nn.Module):
    """Images, uint8 ``(N, H, W, C)``, to codes, int32 ``(N, h, w)``."""

    def __init__(self, encoder: nn.Module, quantizer: Quantizer) -> None:
        super().__init__()
        self.encoder = encoder
        self.quantizer = quantizer

    def forward(self, images: Tensor) -> Tensor:
        return self.quantizer.encode(self.grid(images)).int()

    def grid(self, images: Tensor) -> Tensor:
        """The encoder's outputs, float32 ``(N, D, h, w)``."""
        z: Tensor = self.encoder(to_unit(images.permute(0, 3, 1, 2)))
        return z


class _EncodeOnGPU(nn.Module):
    """``_Encode`` as a graph for a GPU, without a loop."""

    def __init__(self, encode: _Encode, quantizer: Codebook) -> None:
        super().__init__()
        self.encode = encode
        self.quantizer = quantizer

    def forward(self, images: Tensor) -> Tensor:
        grid = self.encode.grid(images)
        rows, by_product = self.quantizer.rows(grid), self.quantizer.by_product
        codes = nearest_on_gpu(rows, self.quantizer.codebook, by_product=by_product)
        return codes.int().view(grid[:, 0].shape)


class _EncodeInBlocks(Chain):
    """``_Encode``, as a graph that looks up ``block`` cells at a time.

    In torch it looks up as ``_Encode`` does, and so that is what its graph is compared with.
    """

    def __init__(self, encode: _Encode, quantizer: Codebook, block: int) -> None:
        super().__init__()
        self.axes = {"rows": {0: "blocks"}, "nearest": {0: "blocks"}, "grid": {0: "n", 1: "h", 2: "w"}}
        self.encode = encode
        self.quantizer = quantizer
        self.block = block

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return (self.encode(*inputs),)

    def start(self, *inputs: Tensor) -> Loop:
        z = self.encode.grid(*inputs)
        rows = self.quantizer.rows(z)
        # Every block has all its rows, so that a cell's code does not depend on how many cells there are.
        rows = F.pad(rows, (0, 0, 0, -rows.shape[0] % self.block)).view(-1, self.block, rows.shape[1])
        table = Table.of(self.quantizer.codebook, by_product=self.quantizer.by_product)
        return Loop({}, {"rows": rows}, {"vectors": table.vectors, "lengths": table.lengths, "grid": z[:, 0]})

    def step(self, carried: Tensors, sliced: Tensors, fixed: Tensors) -> tuple[Tensors, Tensors]:
        table = Table(fixed["vectors"], fixed["lengths"], self.quantizer.size - 1)
        return carried, {"nearest": look_up(sliced["rows"], table).int()}

    def finish(self, carried: Tensors, emitted: Tensors, fixed: Tensors, /) -> tuple[Tensor, ...]:  # noqa: ARG002 - the interface
        grid = fixed["grid"]
        return (emitted["nearest"].flatten()[: grid.numel()].view(grid.shape),)


def _in_blocks(encode: _Encode, cells: int) -> _EncodeInBlocks | None:
    """An encoder that looks the cells of an image up in blocks; None if they are looked up at once."""
    quantizer = encode.quantizer
    if not isinstance(quantizer, Codebook) or (block := block_rows(cells, quantizer.size)) is None:
        return None
    return _EncodeInBlocks(encode, quantizer, block)


class _Decode(nn.Module):
    """Codes, int32 ``(N, h, w)``, to images, uint8 ``(N, H, W, C)``."""

    def __init__(self, quantizer: Quantizer, decoder: nn.Module) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.decoder = decoder

    def forward(self, codes: Tensor) -> Tensor:
        return to_pixels(self.decoder(self.quantizer.embed(codes))).permute(0, 2, 3, 1)


def quantizer_for(config: VQVAEConfig) -> Quantizer:
    """A new quantizer by the config: FSQ if it has levels, a learned codebook if not."""
    if config.fsq_levels is not None:
        return FSQ(config.fsq_levels)
    return LearnedCodebook(
        config.codebook_size,
        config.codebook_dim,
        update=config.update,
        decay=config.decay,
        restart_below=config.restart_below,
        normalise=config.normalise_codes,
        rotate=config.rotation_trick,
    )
