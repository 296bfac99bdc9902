"""Convolutional VAE: images to a vector or a grid of codes and back (Kingma and Welling, 1312.6114)."""

import math
from collections.abc import Iterable
from types import MappingProxyType

import torch
from torch import Tensor, nn

from service.contract.manifest import CodesSpec, ImageSpec, Input, Output, Parameter, Role
from trainer.config import LossesConfig, NCPConfig, VAEConfig
from trainer.config.base import HOTTEST, cropped_spec
from trainer.data import binarisation
from trainer.data.augmentation import cropped, flipped, rotated
from trainer.data.batches import Batch
from trainer.data.distributed import normal, summed
from trainer.models.adversarial.adversary import PLOTTED, Adversary
from trainer.models.adversarial.discriminator import check_size
from trainer.models.base import Step, to_shares
from trainer.models.gaussian.base import GaussianModel
from trainer.models.gaussian.grid import grid_codes, grid_graphs, grid_networks
from trainer.models.gaussian.likelihoods import Gaussian, likelihood_for
from trainer.models.gaussian.noise_contrastive import ClassifierStage
from trainer.models.gaussian.operations import BATCH, UNTILED, encoding, interpolation
from trainer.models.gaussian.posterior import Posterior, at_least
from trainer.models.gaussian.scores import for_every_draw, negative_log_mean, scoring
from trainer.models.graph import Graph
from trainer.models.losses.added import AddedLosses

# Of pixels in [0, 1]: half a level of 255.
SMALLEST_VARIANCE = (0.5 / 255) ** 2


class VAE(GaussianModel):
    """Encoder to a diagonal Gaussian, reparameterisation, decoder to a likelihood of the pixels.

    The loss is -log p(x|z) + beta x KL(q(z|x) || p(z)), in nats an image, the mean over the batch; for the
    likelihood ``mse`` the first part is the sum of squared errors, pixels in [0, 1]. Further losses of the
    reconstruction count as squared errors of that size in every value of the image.
    """

    plotted = MappingProxyType({"kl": (0, None), "test_elbo": (None, None), **PLOTTED})
    anew = GaussianModel.anew | {"likelihood.log_variance"}

    config: VAEConfig
    losses: AddedLosses | None

    def __init__(self, config: VAEConfig, image: ImageSpec, _variance: float, classes: int = 0) -> None:
        if config.latent == "grid":
            image = image.model_copy(update={"multiple_of": config.stride})
        seen = cropped_spec(image, config.crop, config.stride)
        if config.adversarial:
            check_size(seen.height, seen.width, config.discriminator_layers)
        super().__init__(config, image, outputs=image.channels)
        self.likelihood = likelihood_for(config.likelihood)
        self.losses = AddedLosses(config, seen, classes) if config.uses(LossesConfig) else None

    def _networks(self, outputs: int) -> tuple[nn.Sequential, nn.Sequential]:
        if self.config.latent == "grid":
            return grid_networks(self.config, self.image, outputs)
        return super()._networks(outputs)

    def codes_spec(self) -> CodesSpec:
        return grid_codes(self.config, self.image) if self.config.latent == "grid" else super().codes_spec()

    def forward(self, inputs: Tensor, _labels: Tensor | None = None, /) -> Step:
        images = self._augmented(inputs) if self.training else inputs
        pixels = binarisation.drawn(images) if self.config.binarise else to_shares(images)
        posterior = self.posterior(pixels)
        output = self.decoder(posterior.sample(normal(*posterior.mean.shape, device=pixels.device)))
        reconstruction = self.likelihood.loss(output, pixels).mean()
        divergence = posterior.divergence().mean(dim=0)
        weight = self.config.beta * self.kl_warmup()
        loss = reconstruction + weight * at_least(self.config.free_bits, divergence).sum()
        mean, target = self.likelihood.mean(output) * 2 - 1, pixels * 2 - 1
        metrics = {"reconstruction_loss": reconstruction.detach(), "kl": divergence.sum().detach()}
        scale = self.likelihood.scale(pixels)
        if self.losses is not None:
            added = self.losses(mean, target)
            loss = loss + sum(added.values()) * scale
            metrics |= {name: value.detach() for name, value in added.items()}
        pictures = (target, mean) if self.config.adversarial else None
        return Step(loss, {"loss": loss.detach(), **metrics}, pictures=pictures, scale=scale)

    def opponent(self, steps: int) -> Adversary | None:
        config = self.config
        return Adversary(config, self.decoder, self.image, steps=steps) if config.adversarial else None

    @torch.no_grad()
    def begin(self, batches: Iterable[Tensor]) -> None:
        """With ``init_from``, start a learned variance as the error of the loaded weights (2006.13202)."""
        likelihood = self.likelihood
        if self.config.init_from is None or not isinstance(likelihood, Gaussian) or not likelihood.learned:
            return
        pixels = to_shares(next(iter(batches)))
        error = (likelihood.mean(self.decoder(self.posterior(pixels).mean)) - pixels).square()
        total, count = summed(float(error.sum()), error.numel())
        likelihood.log_variance.fill_(math.log(max(total / count, SMALLEST_VARIANCE)))

    def _augmented(self, images: Tensor) -> Tensor:
        if self.config.flips:
            images = flipped(images)
        if self.config.rotations:
            images = rotated(images, self.config.rotations, self.config.background)
        # Last: at the corners of a turned square there would be background.
        return images if self.config.crop is None else cropped(images, self.config.crop)

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
            noise = normal(*posterior.mean.shape, generator=generator).to(pixels.device)
            output = self.decoder(posterior.sample(noise))
            nats = self.likelihood.log_prob(output, pixels) - posterior.divergence().flatten(1).sum(dim=1)
            elbo += float(nats.double().sum())
            seen += len(batch)
        elbo, images = summed(elbo, seen)
        return {**super().monitor(kept), "test_elbo": elbo / images}

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        return self.decoded(self.posterior(to_shares(images)).mean)

    def decoded(self, codes: Tensor) -> Tensor:
        """The expected images of codes: float32 ``(B, d)`` or ``(B, c, h, w)`` to uint8 ``(B, C, H, W)``."""
        pixels = self.likelihood.mean(self.decoder(codes))
        return (pixels * 255).clamp(0, 255).round().byte()

    def graphs(self) -> list[Graph]:
        """``encode``, ``decode``, and of vectors ``score``, ``sample/prior`` and ``sample/interpolate``."""
        if self.config.latent == "grid":
            return grid_graphs(self, _Decoded(self))
        dim = self.config.latent_dim
        codes = torch.randn(2, dim, generator=torch.Generator().manual_seed(0))
        return [
            encoding(self),
            Graph(
                operation="decode",
                file="decoder.onnx",
                module=_Decode(self),
                examples=(codes,),
                axes=(BATCH,),
                inputs=(Input(name="codes", role=Role.codes),),
                outputs=(Output(name="images", role=Role.images),),
                description="The expected image of a code.",
                untiled=UNTILED,
            ),
            scoring(_Score(self), self.image, dim),
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

    def second_stage(self, _classes: int) -> ClassifierStage | None:
        """The classifier of a noise contrastive prior, if the config is that of one (2010.02917)."""
        if not isinstance(self.config, NCPConfig):
            return None
        # Functions rather than the module: the stage has no weights but its own.
        return ClassifierStage(
            self.config,
            posterior=lambda images: torch.cat(self.posterior(to_shares(images)), dim=1),
            decode=lambda codes: self.decoded(codes),
        )


class _Decoded(nn.Module):
    """Codes as the decoder takes them, float32, to images, uint8 ``(B, C, H, W)``."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, codes: Tensor) -> Tensor:
        return self.model.decoded(codes)


class _Decode(_Decoded):
    """Codes, float32 ``(N, d)``, to images, uint8 ``(N, H, W, C)``."""

    def forward(self, codes: Tensor) -> Tensor:
        return super().forward(codes).permute(0, 2, 3, 1)


class _Score(nn.Module):
    """Images, uint8 ``(N, H, W, C)``, and noise, float32 ``(N, S, d)``, to ``FIGURES``, float32 ``(N,)``."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        pixels = to_shares(images.permute(0, 3, 1, 2))
        posterior = self.model.posterior(pixels)
        kl = posterior.divergence().sum(dim=1)
        log_variance = posterior.log_variance[:, None]
        codes = Posterior(posterior.mean[:, None], log_variance).sample(noise)
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
