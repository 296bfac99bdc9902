"""VQ-VAE: images to a grid of codes and back (van den Oord et al., 1711.00937)."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

import torch
from torch import Tensor

from service.contract.manifest import CodesSpec, ImageSpec
from trainer.config import LossesConfig, VQVAEConfig
from trainer.config.base import cropped_spec
from trainer.config.vqvae import MOST_LEVELS
from trainer.data.distributed import gathered
from trainer.models.adversarial.adversary import PLOTTED, Adversary
from trainer.models.adversarial.discriminator import check_size
from trainer.models.base import Model, Step, augmented, to_pixels, to_unit
from trainer.models.code_graphs import Decode, Encode, decoding, encoding
from trainer.models.code_prior.stage import PriorStage
from trainer.models.graph import Graph
from trainer.models.layers.convolutional import Decoder, Encoder
from trainer.models.losses.added import AddedLosses
from trainer.models.quantizers import (
    FSQ,
    LearnedCodebook,
    MultiScale,
    Quantizer,
    Residual,
    SimVQ,
    perplexity,
    usage,
)

# Why a model with ``level_grids`` cannot be cut into tiles.
OF_THE_WHOLE = "the grids of its levels are those of a whole image"
# The beginnings of the names of codebooks: of one, of all levels, or of each.
CODEBOOKS = ("", "shared.", *(f"by_level.{level}." for level in range(MOST_LEVELS)))
# Encoder outputs for each code: enough for its k-means centre to mean something.
ROWS_PER_CODE = 64
# A codebook collapses if after some epochs less than this share of its codes is in use.
COLLAPSED, COLLAPSED_AFTER = 0.10, 2


class VQVAE(Model):
    """Encoder, codebook and decoder.

    The loss is reconstruction / spread + codebook loss + beta x commitment loss, eq. 3, less the losses that
    the quantizer does not have; further losses of the reconstruction are added to it before the division.
    ``spread`` is the variance of the data's pixels in [0, 1] (its square root for the L1 loss), so that beta
    and the learning rate mean the same on any data.
    """

    plotted = MappingProxyType({"perplexity": (0, None), "usage": (0, 1), **PLOTTED})
    anew = frozenset(
        {
            "spread",
            *(f"quantizer.{of}{name}" for of in CODEBOOKS for name in ("steps", "uses", "sums")),
        }
    )

    losses: AddedLosses | None
    spread: Tensor

    def __init__(self, config: VQVAEConfig, image: ImageSpec, variance: float, classes: int = 0) -> None:
        super().__init__()
        self.config = config
        config.check_level_grids(image)
        step = None if config.level_grids else config.stride
        self.image = image.model_copy(update={"multiple_of": step})
        seen = cropped_spec(image, config.crop, config.stride)
        if config.adversarial:
            check_size(seen.height, seen.width, config.discriminator_layers)
        net = config.layers(image)
        self.encoder = Encoder(image.channels, config.codebook_dim, **net)
        self.decoder = Decoder(image.channels, config.codebook_dim, **net, upsampling=config.upsampling)
        self.quantizer = quantizer_for(config)
        spread = variance if config.reconstruction == "mse" else variance**0.5
        self.register_buffer("spread", torch.tensor(spread))
        self.losses = AddedLosses(config, seen, classes) if config.uses(LossesConfig) else None

    def forward(self, inputs: Tensor, _labels: Tensor | None = None, /) -> Step:
        config = self.config
        target = to_unit(augmented(inputs, config.crop, flips=config.flips) if self.training else inputs)
        quantized = self.quantizer(self.encoder(target))
        output = self.decoder(quantized.vectors).float()
        # Halved, a distance in [-1, 1] is one in [0, 1].
        error = (output - target) / 2
        reconstruction = error.square().mean() if self.config.reconstruction == "mse" else error.abs().mean()
        loss = reconstruction / self.spread
        losses: dict[str, Tensor] = {self.config.reconstruction: reconstruction.detach()}
        if self.losses is not None:
            added = self.losses(output, target)
            loss = loss + sum(added.values()) / self.spread
            losses |= {name: value.detach() for name, value in added.items()}
        if quantized.commitment_loss is not None:
            loss = loss + self.config.commitment * quantized.commitment_loss
            losses["commitment_loss"] = quantized.commitment_loss.detach()
        if quantized.codebook_loss is not None:
            loss = loss + quantized.codebook_loss
            losses["codebook_loss"] = quantized.codebook_loss.detach()
        pictures = (target, output) if self.config.adversarial else None
        return Step(loss, {"loss": loss.detach(), **losses}, quantized.counts, pictures=pictures)

    def opponent(self, steps: int) -> Adversary | None:
        config = self.config
        return Adversary(config, self.decoder, self.image, steps=steps) if config.adversarial else None

    @torch.no_grad()
    def begin(self, batches: Iterable[Tensor]) -> None:
        adopted = self.config.init_from is not None
        fixed = self.config.fsq_levels is not None or self.config.update == "simvq"
        if fixed or not (adopted or self.config.kmeans_start):
            return
        rows: list[Tensor] = []
        for images in batches:
            z = self.encoder(to_unit(images))
            rows.append(gathered(z.permute(0, 2, 3, 1).reshape(-1, self.config.codebook_dim)))
            if sum(map(len, rows)) >= ROWS_PER_CODE * self.config.codebook_size:
                break
        seen = cropped_spec(self.image, self.config.crop, self.config.stride)
        # A step has the rows of crops, and these are of whole images.
        batch_rows = len(rows[0]) * seen.height * seen.width // (self.image.height * self.image.width)
        start = self.quantizer.adopt if adopted else self.quantizer.start
        start(torch.cat(rows), batch_rows=batch_rows)

    def count_metrics(self, counts: Tensor) -> dict[str, float]:
        """``perplexity`` and ``usage`` of the codebook."""
        return {"perplexity": perplexity(counts), "usage": usage(counts)}

    def warning(self, record: Mapping[str, float]) -> str | None:
        """Advice against a collapse of the codebook."""
        if record["epoch"] < COLLAPSED_AFTER or record["usage"] >= COLLAPSED:
            return None
        return (
            f"the codebook is collapsing: {record['usage']:.1%} of its codes are in use. "
            f"What helps: {', '.join(_remedies(self.config))}."
        )

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        return to_pixels(self.decoder(self.quantizer(self.encoder(to_unit(images))).vectors))

    def image_spec(self) -> ImageSpec:
        return self.image

    def codes_spec(self) -> CodesSpec:
        stride, grids = self.config.stride, self.config.level_grids
        levels = () if self.quantizer.levels is None else (self.quantizer.levels,)
        grid = (self.image.height // stride, self.image.width // stride, *levels)
        return CodesSpec(
            dtype="int32",
            shape=grid if grids is None else (sum(side**2 for side in grids),),
            stride=stride if grids is None else None,
            codebook_size=self.config.codebook_size,
            codebook_dim=self.config.codebook_dim,
            level_grids=grids,
        )

    def second_stage(self, classes: int) -> PriorStage | None:
        if not self.config.prior_epochs:
            return None
        encode = Encode(self.encoder, self.quantizer)
        decode = Decode(self.quantizer, self.decoder)
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
        encode = encoding(self.encoder, quantizer, self.image, codes)
        decode = decoding(quantizer, self.decoder, codes)
        if codes.level_grids is not None:
            return [replace(graph, untiled=OF_THE_WHOLE) for graph in (encode, decode)]
        return [
            replace(encode, tiling=self.encoder.tiling(), untiled=self.encoder.untiled),
            replace(decode, tiling=self.decoder.tiling(), untiled=self.decoder.untiled),
        ]


def quantizer_for(config: VQVAEConfig) -> Quantizer:
    """A new quantizer by the config: FSQ, a learned codebook, or several levels with one or one each."""
    if config.fsq_levels is not None:
        return FSQ(config.fsq_levels)
    if config.level_grids is not None:
        shared = _codebook_for(config, rotate=False)
        return MultiScale(
            config.level_grids, shared, dropout=config.level_dropout, rotate=config.rotation_trick
        )
    if config.levels == 1:
        return _codebook_for(config, rotate=config.rotation_trick)
    levels = [_codebook_for(config, rotate=False) for _ in range(config.levels)]
    return Residual(levels, dropout=config.level_dropout, rotate=config.rotation_trick)


def _remedies(config: VQVAEConfig) -> list[str]:
    """What helps against a collapse of the codebook: what a run of this config takes and has not yet."""
    if config.fsq_levels is not None:
        return ["fewer or smaller --fsq-levels", "a lower --lr"]
    moved, nested = config.update != "simvq", config.levels > 1 or config.level_grids is not None
    helpful = {
        "--update ema": config.update != "ema",
        "--kmeans-start": moved and not config.kmeans_start and config.init_from is None,
        "a higher --restart-below": moved,
        "a smaller --codebook-dim": config.codebook_dim > (2 if config.normalise_codes else 1),
        "--normalise-codes": not nested and not config.normalise_codes and config.codebook_dim > 1,
        "fewer codes (--codebook-size)": True,
        "a lower --lr": True,
        "--fsq-levels instead of a learned codebook": not nested,
    }
    return [remedy for remedy, helps in helpful.items() if helps]


def _codebook_for(config: VQVAEConfig, *, rotate: bool) -> SimVQ | LearnedCodebook:
    size, dim, normalise = config.codebook_size, config.codebook_dim, config.normalise_codes
    if config.update == "simvq":
        return SimVQ(size, dim, normalise=normalise, rotate=rotate)
    return LearnedCodebook(
        size,
        dim,
        update=config.update,
        decay=config.decay,
        restart_below=config.restart_below,
        normalise=normalise,
        rotate=rotate,
    )
