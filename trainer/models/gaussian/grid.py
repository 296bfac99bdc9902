"""A spatial posterior: the codes of an image are a grid, as of latent diffusion (2112.10752, sec. 3.1).

The encoder and the decoder have no normalisation over space, and attention only with ``attention``. Without
attention a latent depends on the pixels around it alone: images of any size work, and large ones in tiles.
"""

import torch
from torch import Tensor, nn

from service.contract.manifest import CodesSpec, ImageSpec, Input, Output, Role
from service.contract.operations import CODES_AXES
from trainer.config import VAEConfig
from trainer.models.base import to_shares
from trainer.models.gaussian.base import GaussianModel
from trainer.models.gaussian.operations import DRAWN, example_images
from trainer.models.gaussian.posterior import Posterior
from trainer.models.graph import Graph, example_size
from trainer.models.layers.convolutional import Decoder, Encoder


def grid_networks(config: VAEConfig, image: ImageSpec, outputs: int) -> tuple[Encoder, Decoder]:
    """The encoder to mean and log-variance, ``(B, 2 c, h, w)``, and the decoder from ``(B, c, h, w)``."""
    net, channels = config.layers(image), config.latent_channels
    return (
        Encoder(image.channels, 2 * channels, **net),
        Decoder(outputs, channels, **net, upsampling=config.upsampling),
    )


def grid_codes(config: VAEConfig, image: ImageSpec) -> CodesSpec:
    """Codes float32 ``(h, w, c)``."""
    stride = config.stride
    shape = image.height // stride, image.width // stride, config.latent_channels
    return CodesSpec(dtype="float32", shape=shape, stride=stride)


def grid_graphs(model: GaussianModel, decode: nn.Module) -> list[Graph]:
    """``encode`` and ``decode``; the module turns codes ``(B, c, h, w)`` into uint8 ``(B, C, H, W)``.

    There is no ``sample/prior``: the KL divergence has so little weight that the codes of images are far from
    the prior, and what is drawn from it is no image. There, a model of the latents draws them. Nor is there
    ``score``: nobody trained the model as a density.
    """
    if not isinstance(model.encoder, Encoder) or not isinstance(model.decoder, Decoder):
        raise TypeError("the posterior is no grid")
    stride, (height, width, channels) = model.encoder.stride, model.codes_spec().shape
    height, width = example_size(height), example_size(width)
    image = model.image.model_copy(update={"height": height * stride, "width": width * stride})
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, height, width, channels, generator=generator)
    grid = {0: "n", 1: "h", 2: "w"}
    return [
        Graph(
            operation="encode",
            file="encoder.onnx",
            module=_Encode(model),
            examples=(example_images(image, generator), torch.zeros_like(latents)),
            axes=({0: "n", 1: f"{stride}*h", 2: f"{stride}*w"}, grid),
            inputs=(
                Input(name="images", role=Role.images),
                Input(name="noise", role=Role.normal, shape=(CODES_AXES,), default=0),
            ),
            outputs=(Output(name="codes", role=Role.codes),),
            description=DRAWN,
            tiling=model.encoder.tiling(),
            untiled=model.encoder.untiled,
        ),
        Graph(
            operation="decode",
            file="decoder.onnx",
            module=_Decode(decode),
            examples=(latents,),
            axes=(grid,),
            inputs=(Input(name="codes", role=Role.codes),),
            outputs=(Output(name="images", role=Role.images),),
            description="The expected image of a grid of codes.",
            tiling=model.decoder.tiling(),
            untiled=model.decoder.untiled,
        ),
    ]


class _Encode(nn.Module):
    """Images, uint8 ``(N, H, W, C)``, and noise, float32 ``(N, h, w, c)``, to codes like the noise."""

    def __init__(self, model: GaussianModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        posterior = self.model.posterior(to_shares(images.permute(0, 3, 1, 2)))
        return Posterior(*(part.permute(0, 2, 3, 1) for part in posterior)).sample(noise)


class _Decode(nn.Module):
    """Codes, float32 ``(N, h, w, c)``, to images, uint8 ``(N, H, W, C)``."""

    def __init__(self, decode: nn.Module) -> None:
        super().__init__()
        self.decode = decode

    def forward(self, codes: Tensor) -> Tensor:
        images: Tensor = self.decode(codes.permute(0, 3, 1, 2))
        return images.permute(0, 2, 3, 1)
