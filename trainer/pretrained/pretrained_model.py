"""An architecture as what the exporter publishes: uint8 images in and out, and codes as in the contract."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from service.contract.manifest import CodesSpec, ImageSpec, Input, Output, Role
from service.contract.operations import CODES_AXES
from trainer.models.base import Exportable, to_pixels, to_unit
from trainer.models.code_graphs import decoding, encoding
from trainer.models.graph import Graph
from trainer.pretrained.architectures.base import Architecture


class PretrainedModel(Exportable):
    """An architecture with its weights, whose native images have ``image_size`` x ``image_size`` pixels.

    Images of other sizes work too if the architecture takes multiples of a number of pixels.
    """

    noted = True

    def __init__(self, architecture: Architecture, image_size: int) -> None:
        super().__init__()
        self.architecture = architecture
        self.image_size = image_size

    def image_spec(self) -> ImageSpec:
        return ImageSpec(
            channels=self.architecture.image_channels,
            height=self.image_size,
            width=self.image_size,
            multiple_of=self.architecture.multiple_of,
            fit="crop",
            filter="bicubic",
            background=255,
        )

    def codes_spec(self) -> CodesSpec:
        net = self.architecture
        axes = (net.sequence_length,) if net.stride is None else (self.image_size // net.stride,) * 2
        if net.quantizer is None:
            return CodesSpec(
                dtype="float32",
                shape=(*axes, net.latent_channels),
                stride=net.stride,
                scaling=net.scaling,
            )
        return CodesSpec(
            dtype="int32",
            shape=axes,
            stride=net.stride,
            codebook_size=net.quantizer.size,
            codebook_dim=net.quantizer.dim,
        )

    def codebook(self) -> Tensor | None:
        quantizer = self.architecture.quantizer
        return quantizer.vectors().detach() if quantizer and self.architecture.stores_codebook else None

    @torch.no_grad()
    def code_gap(self, images: Tensor, codes: Tensor) -> Tensor:
        net = self.architecture
        z = net.encode(to_unit(images.permute(0, 3, 1, 2)))
        if net.quantizer is not None:
            return net.quantizer.gap(z, codes.view(len(codes), *z.shape[2:])).view(codes.shape)
        own = _means(net, z).permute(0, 2, 3, 1).reshape(codes.shape)
        return (codes - own).abs() / own.abs().clamp(min=1)

    def graphs(self) -> list[Graph]:
        encode, decode = self._grid() if self.architecture.quantizer is None else self._codes()
        net = self.architecture
        if net.tilings is None:
            return [replace(graph, untiled=net.untiled) for graph in (encode, decode)]
        return [
            replace(graph, tiling=tiling) for graph, tiling in zip((encode, decode), net.tilings, strict=True)
        ]

    def _codes(self) -> tuple[Graph, Graph]:
        """Between images and discrete codes."""
        net, image, codes = self.architecture, self.image_spec(), self.codes_spec()
        if net.quantizer is None:
            raise TypeError(f"{type(net).__name__} has no quantizer")
        quantizer = net.quantizer.serving()
        encode = encoding(_Encoder(net), quantizer, image, codes)
        decode = decoding(quantizer, _Decoder(net), codes)
        if codes.stride is None:
            encode = replace(encode, module=_ToSequence(encode.module), provider_modules={})
            decode = replace(decode, module=_FromSequence(decode.module))
            encode = replace(encode, description="The sequence of the image's codes.")
            decode = replace(decode, description="The decoder's image of a sequence of codes.")
        return encode, decode

    def _grid(self) -> tuple[Graph, Graph]:
        """Between images and a grid, or a sequence, of continuous codes."""
        net, image, codes = self.architecture, self.image_spec(), self.codes_spec()
        step, stride = image.multiple_of, codes.stride or 1
        images = torch.zeros(2, image.height, image.width, image.channels, dtype=torch.uint8)
        latents = torch.zeros(2, *codes.shape)
        of_images = {0: "n"} if step is None else {0: "n", 1: f"{step}*h", 2: f"{step}*w"}
        cells = 1 if step is None else step // stride
        grid = {0: "n"} if step is None else {0: "n", 1: f"{cells}*h", 2: f"{cells}*w"}
        draws, form = net.posterior, "sequence" if net.stride is None else "grid"
        noise = Input(name="noise", role=Role.normal, shape=(CODES_AXES,), default=0)
        return (
            Graph(
                operation="encode",
                file="encoder.onnx",
                module=_EncodePosterior(net) if draws else _EncodeLatents(net),
                examples=(images, latents) if draws else (images,),
                axes=(of_images, grid) if draws else (of_images,),
                inputs=(Input(name="images", role=Role.images), *((noise,) if draws else ())),
                outputs=(Output(name="codes", role=Role.codes),),
                description="The mean of the posterior; with a seed, a draw from it."
                if draws
                else f"The encoder's {form}.",
            ),
            Graph(
                operation="decode",
                file="decoder.onnx",
                module=_DecodeLatents(net),
                examples=(latents,),
                axes=(grid,),
                inputs=(Input(name="codes", role=Role.codes),),
                outputs=(Output(name="images", role=Role.images),),
                description=f"The decoder's image of a {form} of codes.",
            ),
        )


def _means(net: Architecture, z: Tensor) -> Tensor:
    return z.chunk(2, dim=1)[0] if net.posterior else z


def _cells(net: Architecture, images: Tensor) -> Tensor:
    """What the encoder gives for each code, in the order of the codes' axes."""
    cells = net.encode(to_unit(images.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
    return cells.squeeze(1) if net.stride is None else cells


class _Part(nn.Module):
    """A part of an architecture."""

    def __init__(self, net: Architecture) -> None:
        super().__init__()
        self.net = net


class _Encoder(_Part):
    """Pixels, float32 ``(B, C, H, W)`` in [-1, 1], to z, float32 ``(B, c, h, w)``."""

    def forward(self, pixels: Tensor) -> Tensor:
        return self.net.encode(pixels)


class _Decoder(_Part):
    """z, float32 ``(B, c, h, w)``, to pixels, float32 ``(B, C, H, W)`` in [-1, 1]."""

    def forward(self, z: Tensor) -> Tensor:
        return self.net.decode(z)


class _EncodeLatents(_Part):
    """Images, uint8 ``(N, H, W, C)``, to codes, float32 ``(N, h, w, c)``, or ``(N, n, c)`` of a sequence."""

    def forward(self, images: Tensor) -> Tensor:
        return _cells(self.net, images)


class _EncodePosterior(_Part):
    """Images, uint8 ``(N, H, W, C)``, and noise of the codes' shape, float32, to codes."""

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        mean, log_variance = _cells(self.net, images).chunk(2, dim=-1)
        return mean + (log_variance.clamp(*self.net.log_variances) / 2).exp() * noise


class _DecodeLatents(_Part):
    """Codes, float32 ``(N, h, w, c)`` or ``(N, n, c)``, to images, uint8 ``(N, H, W, C)``."""

    def forward(self, codes: Tensor) -> Tensor:
        grid = codes.unsqueeze(1) if self.net.stride is None else codes
        return to_pixels(self.net.decode(grid.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)


class _ToSequence(nn.Module):
    """Codes as ``(N, n)``, where ``module`` gives a grid of one row, ``(N, 1, n)``."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Tensor:
        return self.module(images).flatten(1)


class _FromSequence(_ToSequence):
    """Codes, int32 ``(N, n)``, to what ``module`` makes of a grid of one row, ``(N, 1, n)``."""

    def forward(self, codes: Tensor) -> Tensor:
        return self.module(codes[:, None])
