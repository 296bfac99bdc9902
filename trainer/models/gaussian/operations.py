"""The graphs that all models with Gaussian codes have: ``encode`` and ``sample/interpolate``."""

import torch
from torch import Tensor, nn

from service.contract.manifest import ImageSpec, Input, Output, Parameter, Role
from trainer.models.base import to_shares
from trainer.models.gaussian.base import GaussianModel
from trainer.models.graph import Graph

# Where two codes are this close to one direction, or to opposite ones, an arc between them is not defined.
SMALLEST_SINE = 1e-3
# acos(x) / sqrt(1 - x) for 0 <= x <= 1, to 2e-8: Abramowitz and Stegun, 4.4.46.
ARC_COSINE = (
    1.5707963050,
    -0.2145988016,
    0.0889789874,
    -0.0501743046,
    0.0308918810,
    -0.0170881256,
    0.0066700901,
    -0.0012624911,
)
# Numbers in the widest vector instructions, those of AVX-512.
VECTOR = 16
BATCH = {0: "n"}
DRAWN = "The mean of the posterior; with a seed, a draw from it."
UNTILED = "the codes are one vector, which depends on the whole image"


def encoding(model: GaussianModel) -> Graph:
    """``encode``: the posterior's mean, or a draw from it."""
    dim = model.config.latent_dim
    return Graph(
        operation="encode",
        file="encoder.onnx",
        module=_Encode(model),
        examples=(example_images(model.image, torch.Generator().manual_seed(0)), torch.zeros(2, dim)),
        axes=(BATCH, BATCH),
        inputs=(
            Input(name="images", role=Role.images),
            Input(name="noise", role=Role.normal, shape=(dim,), default=0),
        ),
        outputs=(Output(name="codes", role=Role.codes),),
        description=DRAWN,
        untiled=UNTILED,
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


def example_images(image: ImageSpec, generator: torch.Generator) -> Tensor:
    """Two images of noise: uint8 ``(2, H, W, C)``."""
    levels = torch.randint(256, (2, image.height, image.width, image.channels), generator=generator)
    return levels.to(torch.uint8)


class _Encode(nn.Module):
    """Images, uint8 ``(N, H, W, C)``, and noise, float32 ``(N, d)``, to codes, float32 ``(N, d)``."""

    def __init__(self, model: GaussianModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        return self.model.posterior(to_shares(images.permute(0, 3, 1, 2))).sample(noise)


class _Interpolate(nn.Module):
    """Codes, targets, float32 ``(N, d)``, and fractions of the way, float32 ``(N,)``, to codes.

    ``spherical`` is an int64 scalar, 0 or 1.
    """

    def forward(self, codes: Tensor, target: Tensor, fraction: Tensor, spherical: Tensor) -> Tensor:
        share = fraction[:, None]
        straight = (1 - share) * codes + share * target
        lengths = codes.norm(dim=1, keepdim=True), target.norm(dim=1, keepdim=True)
        cosine = (codes * target).sum(dim=1, keepdim=True) / (lengths[0] * lengths[1]).clamp(min=1e-12)
        angle = _angle(cosine.clamp(-1, 1))
        sine, of_near, of_far = _sines(torch.cat([angle, (1 - share) * angle, share * angle], dim=1))
        # Divided first, the weights at the ends are 1 and 0, and the codes there are those given.
        near, far = (each / sine.clamp(min=SMALLEST_SINE) for each in (of_near, of_far))
        arc = near * codes + far * target
        return torch.where((spherical == 1) & (sine > SMALLEST_SINE), arc, straight)


def _angle(cosine: Tensor) -> Tensor:
    """The arc cosine, float32 ``(N, 1)``, by a polynomial: ONNX Runtime has no ``Acos`` for CUDA."""
    size = cosine.abs()
    factor = torch.tensor(0.0)
    for coefficient in reversed(ARC_COSINE):
        factor = factor * size + coefficient
    acute = (1 - size).sqrt() * factor
    return torch.where(cosine < 0, torch.pi - acute, acute)


def _sines(angles: Tensor) -> tuple[Tensor, ...]:
    """The sines of the columns of angles, float32 ``(N, K)``: K of ``(N, 1)``.

    ONNX Runtime rounds the last few of a tensor, which are fewer than a vector instruction takes, in another
    way. Each is computed VECTOR times, so that a row alone is the same as in a batch.
    """
    sines = angles[:, :, None].expand(-1, -1, VECTOR).sin()
    return sines[:, :, 0].split(1, dim=1)
