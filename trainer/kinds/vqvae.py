"""VQ-VAE: images to a grid of codes and back (van den Oord et al., 1711.00937)."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.manifest import CodesSpec, ImageSpec, Input, Output, Role
from trainer.config import VQVAEConfig
from trainer.kinds.base import Graph, Model, Step, to_pixels, to_unit
from trainer.nets.convolutional import Decoder, Encoder
from trainer.quantizer import Quantizer, nearest

# Enough encoder outputs a code for its k-means centre to mean something.
ROWS_PER_CODE = 64


class VQVAE(Model):
    """Encoder, codebook and decoder.

    The loss is reconstruction / spread + codebook loss + beta x commitment loss, eq. 3. ``spread`` is the
    variance of the data's pixels in [0, 1] (its square root for the L1 loss), so that beta and the learning
    rate mean the same on any data.
    """

    spread: Tensor

    def __init__(self, config: VQVAEConfig, image: ImageSpec, variance: float) -> None:
        super().__init__()
        if image.height % config.stride or image.width % config.stride:
            raise ValueError(
                f"images of {image.height}x{image.width} pixels are no multiple of the stride "
                f"{config.stride}; choose another stride or image_size"
            )
        self.config = config
        self.image = image.model_copy(update={"multiple_of": config.stride})
        net = {
            "stride": config.stride,
            "stem": config.stem_width,
            "trunk": config.width,
            "hidden": config.hidden_width,
            "blocks": config.blocks,
        }
        self.encoder = Encoder(image.channels, config.codebook_dim, **net)
        self.decoder = Decoder(image.channels, config.codebook_dim, **net)
        self.quantizer = Quantizer(
            config.codebook_size,
            config.codebook_dim,
            update=config.update,
            decay=config.decay,
            restart_below=config.restart_below,
        )
        spread = variance if config.reconstruction == "mse" else variance**0.5
        self.register_buffer("spread", torch.tensor(spread))

    def forward(self, images: Tensor) -> Step:
        target = to_unit(images)
        quantized = self.quantizer(self.encoder(target))
        # Halved, a distance in [-1, 1] is one in [0, 1].
        error = (self.decoder(quantized.vectors).float() - target) / 2
        reconstruction = error.square().mean() if self.config.reconstruction == "mse" else error.abs().mean()
        loss = (
            reconstruction / self.spread
            + quantized.codebook_loss
            + self.config.commitment * quantized.commitment_loss
        )
        metrics = {
            "loss": loss.detach(),
            self.config.reconstruction: reconstruction.detach(),
            "commitment_loss": quantized.commitment_loss.detach(),
        }
        if self.config.update == "gradient":
            metrics["codebook_loss"] = quantized.codebook_loss.detach()
        return Step(loss, metrics, quantized.counts)

    @torch.no_grad()
    def begin(self, batches: Iterable[Tensor]) -> None:
        if not self.config.kmeans_start:
            return
        rows: list[Tensor] = []
        for images in batches:
            z = self.encoder(to_unit(images))
            rows.append(z.permute(0, 2, 3, 1).reshape(-1, self.config.codebook_dim))
            if sum(map(len, rows)) >= ROWS_PER_CODE * self.config.codebook_size:
                break
        self.quantizer.start(torch.cat(rows))

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

    def codebook(self) -> tuple[str, Tensor]:
        return "quantizer.codebook", self.quantizer.codebook.detach()

    @torch.no_grad()
    def code_gap(self, images: Tensor, codes: Tensor) -> Tensor:
        z = self.encoder(to_unit(images.permute(0, 3, 1, 2))).permute(0, 2, 3, 1).double()
        chosen = F.embedding(codes.long(), self.quantizer.codebook).double()
        best = F.embedding(nearest(z.float().flatten(0, 2), self.quantizer.codebook), self.quantizer.codebook)
        best = best.double().view_as(z)
        gap = (z - chosen).square().sum(-1) - (z - best).square().sum(-1)
        return gap.abs() / (z.square().sum(-1) + chosen.square().sum(-1))

    def graphs(self) -> list[Graph]:
        stride, channels = self.config.stride, self.image.channels
        images = torch.zeros(2, self.image.height, self.image.width, channels, dtype=torch.uint8)
        codes = torch.zeros(2, *self.codes_spec().shape, dtype=torch.int32)
        return [
            Graph(
                operation="encode",
                file="encoder.onnx",
                module=_Encode(self),
                examples=(images,),
                axes=({0: "n", 1: f"{stride}*h", 2: f"{stride}*w"},),
                inputs=(Input(name="images", role=Role.images),),
                outputs=(Output(name="codes", role=Role.codes),),
                description="The nearest code of each cell of the encoder's grid.",
            ),
            Graph(
                operation="decode",
                file="decoder.onnx",
                module=_Decode(self),
                examples=(codes,),
                axes=({0: "n", 1: "h", 2: "w"},),
                inputs=(Input(name="codes", role=Role.codes),),
                outputs=(Output(name="images", role=Role.images),),
                description="The image that the decoder makes of a grid of codes.",
            ),
        ]


class _Encode(nn.Module):
    """Images, uint8 ``(N, H, W, C)``, to codes, int32 ``(N, h, w)``."""

    def __init__(self, model: VQVAE) -> None:
        super().__init__()
        self.encoder = model.encoder
        self.quantizer = model.quantizer

    def forward(self, images: Tensor) -> Tensor:
        z = self.encoder(to_unit(images.permute(0, 3, 1, 2)))
        return self.quantizer.encode(z).int()


class _Decode(nn.Module):
    """Codes, int32 ``(N, h, w)``, to images, uint8 ``(N, H, W, C)``."""

    def __init__(self, model: VQVAE) -> None:
        super().__init__()
        self.quantizer = model.quantizer
        self.decoder = model.decoder

    def forward(self, codes: Tensor) -> Tensor:
        vectors = F.embedding(codes.long(), self.quantizer.codebook)
        return to_pixels(self.decoder(vectors.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
