"""What learns beside a model and makes its reconstructions look real (Esser et al., 2012.09841, sec. 3.1)."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from service.contract.manifest import ImageSpec
from trainer.config.adversarial import AdversarialConfig
from trainer.data import distributed
from trainer.models.adversarial.discriminator import Discriminator
from trainer.models.adversarial.losses import Losses, adaptive_weight, losses, r1_penalty
from trainer.models.base import Opponent, Step

BETAS = (0.5, 0.9)
# Metrics with a plot of their own.
PLOTTED = MappingProxyType({"adversarial_loss": (None, None), "discriminator_loss": (0.0, None)})
FAULTS = "discriminator_faults"
METRICS = ("adversarial_loss", "adversarial_weight", "discriminator_loss", FAULTS)


class Adversary(Opponent):
    """A discriminator of patches, its losses and its optimiser.

    In each step it is scored and trained on the images and reconstructions of the step, and adds the
    adversarial loss to that of the model. Both see the same scores, so there is one forward pass.

    A step in which its loss or a gradient is not finite adds nothing, and has the gradient 0 for the
    discriminator. ``discriminator_faults``, the share of such steps, rises.
    """

    faults = FAULTS

    def __init__(
        self, config: AdversarialConfig, decoder: nn.Module, image: ImageSpec, *, steps: int
    ) -> None:
        """Make the discriminator of a ``decoder``'s images, for a run of ``steps`` steps."""
        super().__init__(tolerance=config.guard_db, most_failures=config.guard_failures)
        self.config = config
        self.last_layer = [weights for weights in decoder.parameters() if weights.ndim > 1][-1]
        start = config.adversarial_start
        self.start = start if start >= 1 else start * steps
        # The random weights of the discriminator must not change the draws of the model's training.
        with torch.random.fork_rng(devices=[]):
            self.network = Discriminator(
                image.channels,
                width=config.discriminator_width,
                layers=config.discriminator_layers,
                norm=config.discriminator_norm,
            )
        self.network.to(self.last_layer.device).to(memory_format=torch.channels_last)
        self.parameters = list(self.network.parameters())
        self.optimizer = Adam(self.parameters, lr=config.discriminator_lr, betas=BETAS, fused=True)

    def __call__(self, step: Step, done: int) -> Step:
        """Learn from a step, and add the adversarial loss; before the start, or switched off, add nothing."""
        zero = torch.zeros((), device=step.loss.device)
        if step.pictures is None or not self.strength or (not self.played and done < self.start):
            return step._replace(metrics={**step.metrics, **dict.fromkeys(METRICS, zero)})
        real, fake = (pictures.float() for pictures in step.pictures)
        found, objective, slope = self._scored(real.detach(), fake.detach())
        gradients = [
            distributed.mean(gradient) for gradient in torch.autograd.grad(objective, self.parameters)
        ]
        finite = self._finite(slope, gradients)
        # Chosen without a branch, which would wait for a GPU.
        slope = torch.where(finite, slope, 0)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = torch.where(finite, gradient, 0)
        weight = self._weight(step, fake, slope)
        self.optimizer.step()
        self.played += 1
        # The gradient of this is the slope, so the discriminator has no second backward pass.
        added = weight * (fake * slope).sum()
        metrics = (
            torch.where(finite, found.adversarial.detach(), 0),
            weight,
            torch.where(finite, found.discriminator.detach(), 0),
            1 - finite.float(),
        )
        loss = step.loss + added - added.detach() + (weight * metrics[0]).detach()
        return step._replace(loss=loss, metrics={**step.metrics, **dict(zip(METRICS, metrics, strict=True))})

    def _scored(self, real: Tensor, fake: Tensor) -> tuple[Losses, Tensor, Tensor]:
        """Both losses, what the discriminator minimises, and the adversarial loss's gradient at ``fake``."""
        fake.requires_grad_()
        scores = self.network(torch.cat([real, fake])).float()
        found = losses(self.config.adversarial_loss, *scores.chunk(2))
        (slope,) = torch.autograd.grad(found.adversarial, fake, retain_graph=True)
        objective = found.discriminator
        if self.config.r1 and self.played % self.config.r1_every == 0:
            with torch.autocast(real.device.type, enabled=False):
                penalty = r1_penalty(self.network, real)
            objective = objective + self.config.r1 * self.config.r1_every * penalty
        return found, objective, slope

    def _finite(self, slope: Tensor, gradients: list[Tensor]) -> Tensor:
        """Whether all is finite, in all processes: bool ``()``."""
        sums = [gradient.sum() for gradient in gradients]
        return torch.stack([distributed.mean(slope.sum()), *sums]).isfinite().all()

    def _weight(self, step: Step, fake: Tensor, slope: Tensor) -> Tensor:
        """The weight of the adversarial loss, a scalar, in proportion to the scale of the step."""
        warmup = self.config.adversarial_warmup_steps
        weight = self.config.adversarial * self.strength * min(1, (self.played + 1) / max(1, warmup))
        if not self.config.adversarial_adaptive:
            return torch.full((), weight, device=fake.device) * step.scale
        ratio = adaptive_weight(step.loss, fake, slope, self.last_layer) / step.scale
        return weight * ratio.clamp(max=self.config.adversarial_clamp) * step.scale

    def state_dict(self) -> dict[str, Any]:
        """The weights, those of the optimiser, and how far it is."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "played": self.played,
            "strength": self.strength,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a state of ``state_dict``."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.played, self.strength = state["played"], state["strength"]
