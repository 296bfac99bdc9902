"""The graphs of a VAE: codes and back, a score of images, and samples of the prior and between codes."""

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from service.manifest import ImageSpec, Input, Output, Parameter, Role
from trainer.posterior import Posterior
from trainer.stage import Graph

if TYPE_CHECKING:
    from trainer.kinds.vae import VAE

# Of the temperature: beyond, images are noise.
HOTTEST = 2.0
MOST_SAMPLES = 256
# Where two codes are this close to one direction, or to opposite ones, an arc between them is not defined.
SMALLEST_SINE = 1e-3
BATCH = {0: "n"}


class Encoding(Protocol):
    """What has a posterior, of pixels, float32 ``(B, C, H, W)`` in [0, 1]."""

    def posterior(self, pixels: Tensor) -> Posterior:
        """q(z|x)."""


def of_vae(model: "VAE") -> list[Graph]:
    """``encode``, ``decode``, ``score``, ``sample/prior`` and ``sample/interpolate``."""
    image, dim = model.image, model.config.latent_dim
    generator = torch.Generator().manual_seed(0)
    images, codes = example_images(image, generator), torch.randn(2, dim, generator=generator)
    return [
        encoding(model, image, dim),
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
        Graph(
            operation="score",
            file="score.onnx",
            module=_Score(model),
            examples=(images, torch.randn(2, 3, dim, generator=generator)),
            axes=(BATCH, {0: "n", 1: "samples"}),
            inputs=(
                Input(name="images", role=Role.images),
                Input(name="noise", role=Role.normal, shape=("samples", dim)),
            ),
            outputs=tuple(
                Output(name=name, role=Role.figure) for name in ("elbo", "reconstruction", "kl", "nll")
            ),
            description="How likely an image is, in nats: the ELBO, its parts log p(x|z) and KL, and "
            "-log p(x) by importance sampling (1509.00519).",
            parameters={"samples": samples_parameter()},
        ),
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


def encoding(model: Encoding, image: ImageSpec, dim: int) -> Graph:
    """``encode``: the posterior's mean, or a draw from it."""
    generator = torch.Generator().manual_seed(0)
    return Graph(
        operation="encode",
        file="encoder.onnx",
        module=_Encode(model),
        examples=(example_images(image, generator), torch.zeros(2, dim)),
        axes=(BATCH, BATCH),
        inputs=(
            Input(name="images", role=Role.images),
            Input(name="noise", role=Role.normal, shape=(dim,), default=0),
        ),
        outputs=(Output(name="codes", role=Role.codes),),
        description="The mean of the posterior; with a seed, a draw from it.",
    )


def interpolation(dim: int) -> Graph:
    """``sample/interpolate``."""
    codes, others = torch.randn(2, 2, dim, generator=torch.Generator().manual_seed(0))
    return Graph(
        operation="sample/interpolate",
        file="sample_interpolate.onnx",
        module=_Interpolate(),
        examples=(codes, others, torch.tensor([0.0, 0.5]), torch.tensor(1)),
        axes=(BATCH, BATCH, BATCH, {}),
        inputs=(
            Input(name="codes", role=Role.codes),
            Input(name="target", role=Role.target),
            Input(name="fraction", role=Role.fraction),
            Input(name="spherical", role=Role.parameter),
        ),
        outputs=(Output(name="between", role=Role.codes),),
        description="Codes on the way from one to another.",
        parameters={
            "spherical": Parameter(
                dtype="int64",
                default=1,
                minimum=0,
                maximum=1,
                description="1: along the arc between the two (1609.04468); 0: straight, through codes "
                "that are shorter than the prior's.",
            )
        },
    )


def samples_parameter() -> Parameter:
    """Of ``score``: how many importance samples."""
    return Parameter(
        dtype="int64",
        default=1,
        minimum=1,
        maximum=MOST_SAMPLES,
        description="Draws from the posterior for each image; with more, nll comes closer to -log p(x).",
    )


def example_images(image: ImageSpec, generator: torch.Generator) -> Tensor:
    """Two images of noise: uint8 ``(2, H, W, C)``."""
    levels = torch.randint(256, (2, image.height, image.width, image.channels), generator=generator)
    return levels.to(torch.uint8)


class _Encode(nn.Module):
    """Images, uint8 ``(N, H, W, C)``, and noise, float32 ``(N, d)``, to codes, float32 ``(N, d)``."""

    def __init__(self, model: Encoding) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        return self.model.posterior(images.permute(0, 3, 1, 2).float() / 255).sample(noise)


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
        pixels = images.permute(0, 3, 1, 2).float() / 255
        posterior = self.model.posterior(pixels)
        kl = posterior.divergence().sum(dim=1)
        log_variance = posterior.log_variance[:, None]
        codes = posterior.mean[:, None] + (log_variance / 2).exp() * noise
        # By broadcasting: the exporter would keep the example's count of samples in an expansion.
        repeated = pixels[:, None] + torch.zeros_like(noise[:, :, :1])[..., None, None]
        output = self.model.decoder(codes.flatten(0, 1))
        fit = self.model.likelihood.log_prob(output, repeated.flatten(0, 1)).view_as(noise[:, :, 0])
        # log p(z) - log q(z|x), of which the constants cancel.
        ratio = (noise.square() - codes.square() + log_variance).sum(dim=2) / 2
        weight = fit.double() + ratio.double()
        most = weight.amax(dim=1, keepdim=True)
        nll = -(most[:, 0] + (weight - most).exp().mean(dim=1).log())
        reconstruction = fit.double().mean(dim=1).float()
        return reconstruction - kl, reconstruction, kl, nll.float()


class _Prior(nn.Module):
    """Noise, float32 ``(N, d)``, and a temperature to codes, float32 ``(N, d)``."""

    def forward(self, noise: Tensor, temperature: Tensor) -> Tensor:
        return noise * temperature


class _Interpolate(nn.Module):
    """Codes, targets, float32 ``(N, d)``, and fractions of the way, float32 ``(N,)``, to codes.

    ``spherical`` is an int64 scalar, 0 or 1.
    """

    def forward(self, codes: Tensor, target: Tensor, fraction: Tensor, spherical: Tensor) -> Tensor:
        share = fraction[:, None]
        straight = (1 - share) * codes + share * target
        lengths = codes.norm(dim=1, keepdim=True), target.norm(dim=1, keepdim=True)
        cosine = (codes * target).sum(dim=1, keepdim=True) / (lengths[0] * lengths[1]).clamp(min=1e-12)
        angle = cosine.clamp(-1, 1).acos()
        sine = angle.sin()
        # Divided first, the weights at the ends are 1 and 0, and the codes there are those given.
        near, far = ((part * angle).sin() / sine.clamp(min=SMALLEST_SINE) for part in (1 - share, share))
        arc = near * codes + far * target
        return torch.where((spherical == 1) & (sine > SMALLEST_SINE), arc, straight)
