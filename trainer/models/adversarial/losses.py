"""The losses of a discriminator and of what it scores.

Scores are float ``(B, 1, h, w)``, one for each patch, higher for real ones.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.data import distributed

# Keeps the ratio of two gradients finite (as in taming-transformers).
TINY = 1e-4


class Losses(NamedTuple):
    """Scalars, the means over all patches: what the discriminator minimises, and what its opponent does."""

    discriminator: Tensor
    adversarial: Tensor


def losses(name: Literal["hinge", "non-saturating"], real: Tensor, fake: Tensor) -> Losses:
    """Both losses of the scores of originals and reconstructions."""
    if name == "hinge":
        return Losses((F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2, -fake.mean())
    return Losses((F.softplus(-real).mean() + F.softplus(fake).mean()) / 2, F.softplus(-fake).mean())


def r1_penalty(scored: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """R1 (1801.04406, eq. 9) without its weight: half the squared gradient at real images, a scalar.

    ``real`` is float ``(B, C, H, W)``. The gradient is that of the sum of an image's scores, and its square
    is divided by their number, so that the penalty does not depend on the size of the images.
    """
    real = real.detach().requires_grad_()
    scores = scored(real)
    (gradient,) = torch.autograd.grad(scores.sum(), real, create_graph=True)
    return gradient.square().sum() / scores.numel() / 2


def adaptive_weight(loss: Tensor, fake: Tensor, slope: Tensor, last_layer: Tensor) -> Tensor:
    """The ratio of the gradients of two losses at the weights of a decoder's last layer (2012.09841, eq. 7).

    ``loss`` is the scalar without the adversarial loss; ``slope`` the gradient of the adversarial loss at the
    reconstructions ``fake``. Of several processes, the gradients are those of the whole batch.
    """
    (of_loss,) = torch.autograd.grad(loss, last_layer, retain_graph=True)
    (of_adversarial,) = torch.autograd.grad(fake, last_layer, slope, retain_graph=True)
    norms = [distributed.mean(gradient).norm() for gradient in (of_loss, of_adversarial)]
    return norms[0] / (norms[1] + TINY)
