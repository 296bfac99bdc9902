"""Convolutional VAE: images to a vector of codes and back (Kingma and Welling, 1312.6114)."""

from collections.abc import Iterable

import torch
from torch import Tensor

from service.contract.manifest import ImageSpec
from trainer.config import VAEConfig
from trainer.data import Batch, binarisation
from trainer.data.augmentation import flipped, rotated
from trainer.models.base import Graph, Step, to_shares
from trainer.models.gaussian import vae_graphs
from trainer.models.gaussian.base import GaussianModel
from trainer.models.gaussian.likelihoods import likelihood_for


class VAE(GaussianModel):
    """Encoder to a diagonal Gaussian, reparameterisation, decoder to a likelihood of the pixels.

    The loss is -log p(x|z) + beta x KL(q(z|x) || p(z)), in nats an image, the mean over the batch; for the
    likelihood ``mse`` the first part is the sum of squared errors, pixels in [0, 1].
    """

    def __init__(self, config: VAEConfig, image: ImageSpec, _variance: float, _classes: int = 0) -> None:
        super().__init__(config, image, outputs=image.channels)
        self.config = config
        self.likelihood = likelihood_for(config.likelihood)

    def forward(self, inputs: Tensor, _labels: Tensor | None = None, /) -> Step:
        images = self._augmented(inputs) if self.training else inputs
        pixels = binarisation.drawn(images) if self.config.binarise else to_shares(images)
        posterior = self.posterior(pixels)
        output = self.decoder(posterior.sample(torch.randn_like(posterior.mean)))
        reconstruction = self.likelihood.loss(output, pixels).mean()
        divergence = posterior.divergence().mean(dim=0)
        weight = self.config.beta * self.warmth()
        loss = reconstruction + weight * divergence.clamp(min=self.config.free_bits).sum()
        return Step(
            loss,
            {
                "loss": loss.detach(),
                "reconstruction_loss": reconstruction.detach(),
                "kl": divergence.sum().detach(),
            },
        )

    def _augmented(self, images: Tensor) -> Tensor:
        if self.config.flips:
            images = flipped(images)
        if self.config.rotations:
            images = rotated(images, self.config.rotations, self.config.background)
        return images

    def monitor(self, batches: Iterable[Batch]) -> dict[str, float]:
        """``test_mse``, and ``test_elbo`` in nats an image, of one draw from the posterior."""
        kept = list(batches)
        generator = torch.Generator().manual_seed(0)
        elbo, seen = 0.0, 0
        for batch in kept:
            pixels = (
                binarisation.drawn(batch.images, generator)
                if self.config.binarise
                else to_shares(batch.images)
            )
            posterior = self.posterior(pixels)
            noise = torch.randn(posterior.mean.shape, generator=generator).to(pixels.device)
            output = self.decoder(posterior.sample(noise))
            nats = self.likelihood.log_prob(output, pixels) - posterior.divergence().sum(dim=1)
            elbo += float(nats.double().sum())
            seen += len(batch)
        return {**super().monitor(kept), "test_elbo": elbo / seen}

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        return self.decoded(self.posterior(to_shares(images)).mean)

    def decoded(self, codes: Tensor) -> Tensor:
        """The expected images of codes: float32 ``(B, d)`` to uint8 ``(B, C, H, W)``."""
        pixels = self.likelihood.mean(self.decoder(codes))
        return (pixels * 255).clamp(0, 255).round().byte()

    def graphs(self) -> list[Graph]:
        return vae_graphs.of_vae(self)
