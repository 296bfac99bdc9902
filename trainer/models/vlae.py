"""Variational lossy autoencoder (Chen et al., 1611.02731), its prior conditioned on the class."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from service.contract.manifest import ImageSpec
from service.contract.runner import default_noise
from trainer.config import VLAEConfig
from trainer.data import binarisation
from trainer.data.augmentation import flipped
from trainer.data.batches import Batch
from trainer.data.distributed import mean, normal, summed, uniform
from trainer.image_sheets import class_sheet, sheet_labels, side_by_side
from trainer.models.autoregressive.flow_prior import FlowPrior, drawn_codes, sampling
from trainer.models.autoregressive.pixel_decoder import PixelLoop, PixelStack, decoding
from trainer.models.autoregressive.pixel_distributions import pixel_distribution
from trainer.models.base import PICTURED_IMAGES, Best, Step, to_shares
from trainer.models.gaussian.base import GaussianModel
from trainer.models.gaussian.operations import encoding, interpolation
from trainer.models.gaussian.posterior import Posterior, at_least
from trainer.models.gaussian.scores import for_every_draw, negative_log_mean, scoring
from trainer.models.graph import Graph

# Of soft free bits: how far above them the divergence may be, by what the weight moves in a step, and how low
# it falls. Below about 1e-43 float32 would round each rise away; from here, it is back at 1 in 465 steps.
SLACK, WEIGHT_STEP, LOWEST_WEIGHT = 1.05, 1.02, 1e-4


class VLAE(GaussianModel):
    """Encoder to a Gaussian, a flow as the prior, and a decoder that sees the pixels nearby too.

    The loss is -log p(x|z) + KL(q(z|x) || p(z|y)), in nats an image, the mean over the batch; the KL
    divergence is that of one draw, the entropy of q in closed form.
    """

    kept = "vlae_condprior_epoch{epoch}"
    best = Best("test_elbo", highest=True)
    # The weight of the KL divergence moves with training.
    anew = GaussianModel.anew | {"weight"}
    shown = MappingProxyType({"prior": "sample/prior"})
    plotted = MappingProxyType(
        {"kl": (0, None), "test_elbo": (None, None), "test_elbo_given_class": (None, None)}
    )

    config: VLAEConfig
    weight: Tensor

    def __init__(self, config: VLAEConfig, image: ImageSpec, _variance: float, classes: int = 0) -> None:
        super().__init__(config, image, outputs=config.filters)
        self.classes = classes
        if classes and not config.label_drop:
            # A prior that always sees the class never learns to do without it.
            self.best = Best("test_elbo_given_class", highest=True)
        self.pixel = pixel_distribution(config.likelihood, image.channels, config.mixture)
        self.stack = PixelStack(image.channels, config.filters, config.window, self.pixel.outputs)
        self.prior = FlowPrior(
            config.latent_dim,
            classes,
            steps=config.flow_steps,
            width=config.flow_width,
            layers=config.flow_layers,
        )
        # That soft free bits move: in the checkpoint with the weights.
        self.register_buffer("weight", torch.tensor(1.0))

    def log_prob(self, pixels: Tensor, codes: Tensor) -> Tensor:
        """Log p(x|z) in nats, float32 ``(B,)``: pixels ``(B, C, H, W)`` in [0, 1], codes ``(B, d)``."""
        output = self.stack(pixels, self.decoder(codes)).float().permute(0, 2, 3, 1)
        return self.pixel.log_prob(output, pixels.permute(0, 2, 3, 1)).flatten(1).sum(dim=1)

    def forward(self, inputs: Tensor, labels: Tensor | None = None, /) -> Step:
        images = flipped(inputs) if self.config.flips and self.training else inputs
        pixels = self._pixels(images)
        labels = self._labels(len(pixels), labels)
        dropped = uniform(len(pixels), device=pixels.device) < self.config.label_drop
        labels = torch.where(dropped, self.prior.no_label, labels)
        posterior = self.posterior(pixels)
        codes = posterior.sample(normal(*posterior.mean.shape, device=pixels.device))
        reconstruction = -self.log_prob(pixels, codes).mean()
        divergence = -(posterior.entropy() + self.prior.log_probs(codes, labels)).mean(dim=0)
        loss = reconstruction + self._cost(divergence)
        return Step(
            loss,
            {
                "loss": loss.detach(),
                "reconstruction_loss": reconstruction.detach(),
                "kl": divergence.sum().detach(),
            },
        )

    def _pixels(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images as the likelihood has them: uint8 to float32 in [0, 1]."""
        if self.config.likelihood == "logistic":
            return to_shares(images)
        if self.config.binarisation == "fixed":
            return binarisation.fixed(images, self.config.seed)
        return binarisation.drawn(images, generator)

    def _cost(self, divergence: Tensor) -> Tensor:
        """What the KL divergence, ``(d,)``, costs in this step."""
        config, warmup = self.config, self.kl_warmup()
        if not config.free_bits:
            return warmup * divergence.sum()
        if config.free_bits_weighing == "hard":
            return warmup * at_least(config.free_bits, divergence).sum()
        if self.training:
            above = mean(divergence.detach()).sum() > SLACK * config.free_bits * len(divergence)
            self.weight.mul_(torch.where(above, WEIGHT_STEP, 1 / WEIGHT_STEP)).clamp_(LOWEST_WEIGHT, 1.0)
        return warmup * self.weight * divergence.sum()

    def _labels(self, count: int, labels: Tensor | None) -> Tensor:
        if labels is None or not self.classes:
            return torch.full((count,), self.prior.no_label, device=self.prior.mean.weight.device)
        return labels

    def monitor(self, batches: Iterable[Batch]) -> dict[str, float]:
        """``test_elbo``, and ``test_elbo_given_class`` if there are classes: nats an image, of one draw."""
        generator = torch.Generator().manual_seed(0)
        sums, seen = torch.zeros(2, dtype=torch.float64), 0
        for batch in batches:
            pixels = self._pixels(batch.images, generator)
            posterior = self.posterior(pixels)
            noise = normal(*posterior.mean.shape, generator=generator).to(pixels.device)
            codes = posterior.sample(noise)
            fit = self.log_prob(pixels, codes) + posterior.entropy().sum(dim=1)
            for index, labels in enumerate((None, batch.labels)):
                prior = self.prior.log_probs(codes, self._labels(len(batch), labels)).sum(dim=1)
                sums[index] += (fit + prior).double().sum().cpu()
            seen += len(batch)
        names = ["test_elbo", *(["test_elbo_given_class"] if self.classes else [])]
        *nats, images = summed(*sums.tolist(), seen)
        return dict(zip(names, [each / images for each in nats], strict=False))

    def pictures(self, batch: Batch) -> Mapping[str, Tensor]:
        """Originals above reconstructions; and draws, where there are classes in a column for each."""
        originals = batch.images[:PICTURED_IMAGES]
        noise, chances, labels = (tensor.to(batch.images.device) for tensor in self._pictured())
        codes = drawn_codes(self.prior, noise, labels, self.config.code_temperature)
        samples = self.decoded(codes, chances)
        return {
            "test_recon_epoch{epoch}": side_by_side(originals, self.reconstruct(originals)),
            "sample_conditioned_epoch{epoch}": class_sheet(samples, self.label_names),
        }

    def _pictured(self) -> tuple[Tensor, Tensor, Tensor]:
        """Noise of codes and of pixels, by a fixed seed, and classes, for a sheet of draws."""
        labels = sheet_labels(self.classes)
        generator, count = torch.Generator().manual_seed(0), len(labels)
        noise = torch.randn(count, self.config.latent_dim, generator=generator)
        pixels = self.image.height * self.image.width
        chances = torch.rand(count, pixels, self.pixel.noises, generator=generator)
        return noise, chances, labels

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        return self.decoded(self.posterior(to_shares(images)).mean)

    def decoded(self, codes: Tensor, noise: Tensor | None = None) -> Tensor:
        """The images of codes, float32 ``(B, d)``: uint8 NCHW.

        They are drawn by noise or, without any, by the default noise as in the service.
        """
        if noise is None:
            item = self.loop().noise_input()
            shape = [int(size) for size in item.shape]
            noise = torch.from_numpy(default_noise("decode", item, len(codes), shape)).to(codes.device)
        scalars = (tensor.to(codes.device) for tensor in self._as_shown())
        (images,) = self.loop()(codes, noise, *scalars)
        return images.permute(0, 3, 1, 2)

    def _as_shown(self) -> tuple[Tensor, Tensor]:
        """The temperature of the pixels, and whether their means are shown."""
        return torch.tensor(1.0), torch.tensor(int(self.pixel.shows_mean))

    def loop(self) -> PixelLoop:
        """The decoder pixel by pixel."""
        return PixelLoop(self.stack, self.pixel, self.decoder, (self.image.height, self.image.width))

    def graphs(self) -> list[Graph]:
        """``encode``, ``decode``, ``score``, ``sample/prior`` and ``sample/interpolate``."""
        dim = self.config.latent_dim
        return [
            encoding(self),
            decoding(self.loop(), dim),
            scoring(Score(self), self.image, dim, self.prior.no_label if self.classes else None),
            sampling(self.prior, self.config.code_temperature),
            interpolation(dim),
        ]


class Score(nn.Module):
    """Images, uint8 ``(N, H, W, C)``, noise, float32 ``(N, S, d)``, and classes to figures ``(N,)``."""

    def __init__(self, model: VLAE) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, images: Tensor, noise: Tensor, label: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        model = self.model
        pixels = to_shares(images.permute(0, 3, 1, 2))
        labels = torch.zeros_like(images[:, 0, 0, 0]).long() if label is None else label
        posterior = model.posterior(pixels)
        codes = Posterior(posterior.mean[:, None], posterior.log_variance[:, None]).sample(noise)
        flat = codes.flatten(0, 1)
        fit = model.log_prob(for_every_draw(pixels, noise), flat).view_as(noise[:, :, 0]).double()
        prior = model.prior.log_probs(flat, for_every_draw(labels, noise)).sum(dim=1).view_as(fit).double()
        entropy = posterior.entropy().sum(dim=1).double()
        # -log q(z|x) of a draw, by its noise.
        surprise = entropy[:, None] + (noise.square() - 1).sum(dim=2).double() / 2
        nll = negative_log_mean(fit + prior + surprise)
        reconstruction = fit.mean(dim=1)
        kl = -(prior.mean(dim=1) + entropy)
        return (reconstruction - kl).float(), reconstruction.float(), kl.float(), nll.float()
