"""The graphs of a VAE: codes and back, a score of images, and samples of the prior."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from service.contract.manifest import Input, Output, Parameter, Role
from trainer.config.gaussian import HOTTEST
from trainer.models.base import Graph, to_shares
from trainer.models.gaussian.operations import BATCH, encoding, interpolation
from trainer.models.gaussian.scores import for_every_draw, negative_log_mean, scoring

if TYPE_CHECKING:
    from trainer.models.vae import VAE


def of_vae(model: "VAE") -> list[Graph]:
    """``encode``, ``decode``, ``score``, ``sample/prior`` and ``sample/interpolate``."""
    dim = model.config.latent_dim
    codes = torch.randn(2, dim, generator=torch.Generator().manual_seed(0))
    return [
        encoding(model),
        Graph(
            operation="decode",
            file="decoder.onnx",
            module=_Decode(model),
            examples=(codes,),
            axes=(BATCH,),
            inputs=(Input(name="codes", role=Role.codes),),
            outputs=(Output(name="images", role=Role.images),),
            description="The expected image of a code.",
        ),
        scoring(_Score(model), model.image, dim),
        Graph(
            operation="sample/prior",
            file="sample_prior.onnx",
            module=_Prior(),
            examples=(codes, torch.tensor(1.0)),
            axes=(BATCH, {}),
            inputs=(
                Input(name="noise", role=Role.normal, shape=(dim,)),
                Input(name="temperature", role=Role.parameter),
            ),
            outputs=(Output(name="codes", role=Role.codes),),
            description="Codes from the prior, a standard normal distribution.",
            parameters={
                "temperature": Parameter(
                    dtype="float32",
                    default=1,
                    minimum=0,
                    maximum=HOTTEST,
                    description="Standard deviation of the codes: below 1, images are more usual.",
                )
            },
        ),
        interpolation(dim),
    ]


class _Decode(nn.Module):
    """Codes, float32 ``(N, d)``, to images, uint8 ``(N, H, W, C)``."""

    def __init__(self, model: "VAE") -> None:
        super().__init__()
        self.model = model

    def forward(self, codes: Tensor) -> Tensor:
        return self.model.decoded(codes).permute(0, 2, 3, 1)


class _Score(nn.Module):
    """Images, uint8 ``(N, H, W, C)``, and noise, float32 ``(N, S, d)``, to four figures, float32 ``(N,)``."""

    def __init__(self, model: "VAE") -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        pixels = to_shares(images.permute(0, 3, 1, 2))
        posterior = self.model.posterior(pixels)
        kl = posterior.divergence().sum(dim=1)
        log_variance = posterior.log_variance[:, None]
        codes = posterior.mean[:, None] + (log_variance / 2).exp() * noise
        output = self.model.decoder(codes.flatten(0, 1))
        fit = self.model.likelihood.log_prob(output, for_every_draw(pixels, noise)).view_as(noise[:, :, 0])
        # log p(z) - log q(z|x), of which the constants cancel.
        ratio = (noise.square() - codes.square() + log_variance).sum(dim=2) / 2
        nll = negative_log_mean(fit.double() + ratio.double())
        reconstruction = fit.double().mean(dim=1).float()
        return reconstruction - kl, reconstruction, kl, nll.float()


class _Prior(nn.Module):
    """Noise, float32 ``(N, d)``, and a temperature to codes, float32 ``(N, d)``."""

    def forward(self, noise: Tensor, temperature: Tensor) -> Tensor:
        return noise * temperature
