"""Convolutional VAE: images to a vector of codes and back (Kingma and Welling, 1312.6114)."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from service.manifest import CodesSpec, ImageSpec
from trainer import binarisation
from trainer.augmentation import flipped, rotated
from trainer.config import VAEConfig
from trainer.data import Batch
from trainer.gaussian import graphs
from trainer.likelihoods import likelihood_for
from trainer.nets.convolutional import Decoder, Encoder
from trainer.posterior import Posterior
from trainer.stage import Graph, Model, Step, to_shares


class VAE(Model):
    """Encoder to a diagonal Gaussian, reparameterisation, decoder to a likelihood of the pixels.

    The loss is -log p(x|z) + beta x KL(q(z|x) || p(z)), in nats an image, the mean over the batch; for the
    likelihood ``mse`` the first part is the sum of squared errors, pixels in [0, 1].
    """

    steps: Tensor

    def __init__(self, config: VAEConfig, image: ImageSpec, _variance: float, _classes: int = 0) -> None:
        super().__init__()
        self.config = config
        self.image = image
        net = config.layers(image)
        neck = (config.neck_width, image.height // config.stride, image.width // config.stride)
        size = neck[0] * neck[1] * neck[2]
        self.encoder = nn.Sequential(
            Encoder(image.channels, config.neck_width, **net),
            nn.Flatten(),
            nn.Linear(size, 2 * config.latent_dim),
        )
        self.decoder = nn.Sequential(
            nn.Linear(config.latent_dim, size),
            nn.Unflatten(1, neck),
            Decoder(image.channels, config.neck_width, **net, upsampling=config.upsampling),
        )
        self.likelihood = likelihood_for(config.likelihood)
        # Of training, for the warm-up: in the checkpoint with the weights.
        self.register_buffer("steps", torch.tensor(0))

    def posterior(self, pixels: Tensor) -> Posterior:
        """q(z|x) of pixels, float32 ``(B, C, H, W)`` in [0, 1]."""
        return Posterior.of(self.encoder(pixels * 2 - 1))

    def forward(self, inputs: Tensor, _labels: Tensor | None = None, /) -> Step:
        images = self._augmented(inputs) if self.training else inputs
        pixels = binarisation.drawn(images) if self.config.binarise else to_shares(images)
        posterior = self.posterior(pixels)
        output = self.decoder(posterior.sample(torch.randn_like(posterior.mean)))
        reconstruction = self.likelihood.loss(output, pixels).mean()
        divergence = posterior.divergence().mean(dim=0)
        loss = reconstruction + self._beta() * divergence.clamp(min=self.config.free_bits).sum()
        if self.training:
            self.steps += 1
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

    def _beta(self) -> Tensor | float:
        """The weight of the KL divergence in this step."""
        if not self.config.kl_warmup_steps:
            return self.config.beta
        return self.config.beta * (self.steps / self.config.kl_warmup_steps).clamp(max=1)

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

    def image_spec(self) -> ImageSpec:
        return self.image

    def codes_spec(self) -> CodesSpec:
        return CodesSpec(dtype="float32", shape=(self.config.latent_dim,))

    @torch.no_grad()
    def code_gap(self, images: Tensor, codes: Tensor) -> Tensor:
        """The difference over the code itself, where that is more than 1: the prior's standard deviation."""
        own = self.posterior(to_shares(images.permute(0, 3, 1, 2))).mean
        return (codes - own).abs() / own.abs().clamp(min=1)

    def graphs(self) -> list[Graph]:
        return graphs.of_vae(self)
