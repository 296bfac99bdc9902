"""An imported model that is trained further, on other images.

    image ──> encoder ──> a draw from the posterior, the nearest code vector, or z ──> decoder

With a frozen encoder only the decoder learns, and the codes of images stay as they are. Otherwise a posterior
is held near the prior by its KL divergence (2112.10752), and discrete codes pass their gradient straight
through (1711.00937). Their code vectors stay as they are in either case.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.contract.manifest import CodesSpec, ImageSpec
from trainer.config import FinetuneConfig, LossesConfig
from trainer.config.base import cropped_spec
from trainer.data.distributed import normal
from trainer.models.adversarial.adversary import PLOTTED, Adversary
from trainer.models.adversarial.discriminator import check_size
from trainer.models.base import Model, Step, augmented, to_pixels, to_unit
from trainer.models.gaussian.posterior import Posterior
from trainer.models.graph import Graph
from trainer.models.losses.added import AddedLosses
from trainer.models.quantizers import Codebook, Quantizer, perplexity, usage
from trainer.models.quantizers.base import counted, straight_through
from trainer.pretrained.architectures.base import Architecture
from trainer.pretrained.families import FAMILIES
from trainer.pretrained.pretrained_model import PretrainedModel


class FinetunedModel(Model):
    """The network of an import with a loss.

    The loss is reconstruction / spread, as of a ``VQVAE``, with further losses of the reconstruction. If the
    encoder is trained, the KL divergence of a posterior, over the number of values of an image, counts as
    such a loss, and for discrete codes beta x commitment loss is added.
    """

    noted = True
    plotted = PLOTTED
    anew = frozenset({"spread"})

    losses: AddedLosses | None
    spread: Tensor

    def __init__(self, config: FinetuneConfig, image: ImageSpec, variance: float, classes: int = 0) -> None:
        super().__init__()
        if config.origin is None:
            raise ValueError("it starts from an imported model: name it with --init-from FOLDER")
        self.config = config
        self.net = _architecture(config)
        _check_size(self.net, image.height)
        self.image = image.model_copy(update={"multiple_of": self.net.multiple_of})
        seen = cropped_spec(image, config.crop, self.net.multiple_of)
        if config.adversarial:
            check_size(seen.height, seen.width, config.discriminator_layers)
        if config.freeze_encoder:
            for name, parameter in self.net.named_parameters():
                parameter.requires_grad_(name.partition(".")[0] not in self.net.encodes)
        spread = variance if config.reconstruction == "mse" else variance**0.5
        self.register_buffer("spread", torch.tensor(spread))
        self.losses = AddedLosses(config, seen, classes) if config.uses(LossesConfig) else None

    def forward(self, inputs: Tensor, _labels: Tensor | None = None, /) -> Step:
        config = self.config
        target = to_unit(augmented(inputs, config.crop, flips=config.flips) if self.training else inputs)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_encoder):
            encoded = self.net.encode(target)
        losses: dict[str, Tensor] = {}
        penalty, counts, quantizer = torch.zeros((), device=target.device), None, self.net.quantizer
        if quantizer is not None:
            z, commitment, counts = self._quantized(encoded, quantizer)
            if not self.config.freeze_encoder:
                losses["commitment_loss"] = commitment
                penalty = self.config.commitment * commitment
        elif self.net.posterior:
            posterior = _posterior(self.net, encoded)
            z = posterior.sample(normal(*posterior.mean.shape, device=target.device))
            if not self.config.freeze_encoder:
                losses["kl"] = posterior.divergence().sum() / len(target)
                penalty = self.config.kl_weight * losses["kl"] / target[0].numel() / self.spread
        else:
            z = encoded
        output = self.net.decode(z).float()
        # Halved, a distance in [-1, 1] is one in [0, 1].
        error = (output - target) / 2
        reconstruction = error.square().mean() if self.config.reconstruction == "mse" else error.abs().mean()
        added = {} if self.losses is None else self.losses(output, target)
        loss = (reconstruction + sum(added.values())) / self.spread + penalty
        losses |= {"loss": loss, self.config.reconstruction: reconstruction, **added}
        pictures = (target, output) if self.config.adversarial else None
        metrics = {name: value.detach() for name, value in losses.items()}
        return Step(loss, metrics, counts, pictures=pictures)

    def _quantized(self, z: Tensor, quantizer: Quantizer) -> tuple[Tensor, Tensor, Tensor]:
        """The code vectors of z, ``(B, D, h, w)``, the commitment loss, and the uses of each code."""
        z = z.float()
        codes = quantizer.encode(z)
        vectors = quantizer.embed(codes)
        if isinstance(quantizer, Codebook) and quantizer.normalise:
            z = F.normalize(z, dim=1)
        return straight_through(z, vectors), F.mse_loss(z, vectors), counted(codes, quantizer.size)

    def opponent(self, steps: int) -> Adversary | None:
        if not self.config.adversarial:
            return None
        return Adversary(self.config, _last_part(self.net), self.image, steps=steps)

    def count_metrics(self, counts: Tensor) -> dict[str, float]:
        """``perplexity`` and ``usage`` of discrete codes."""
        return {"perplexity": perplexity(counts), "usage": usage(counts)}

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        z = self.net.encode(to_unit(images))
        if self.net.quantizer is not None:
            z = self.net.quantizer.embed(self.net.quantizer.encode(z.float()))
        elif self.net.posterior:
            z = _posterior(self.net, z).mean
        return to_pixels(self.net.decode(z))

    @property
    def served(self) -> PretrainedModel:
        """The same network, as an import is published."""
        return PretrainedModel(self.net, self.image.height)

    def image_spec(self) -> ImageSpec:
        return self.image

    def codes_spec(self) -> CodesSpec:
        return self.served.codes_spec()

    def graphs(self) -> list[Graph]:
        return self.served.graphs()

    def code_gap(self, images: Tensor, codes: Tensor) -> Tensor:
        return self.served.code_gap(images, codes)

    def codebook(self) -> Tensor | None:
        return self.served.codebook()


def _architecture(config: FinetuneConfig) -> Architecture:
    origin = config.origin
    if origin is None or origin.family not in FAMILIES:
        raise ValueError(f"there is no family {origin and origin.family!r}; there are {', '.join(FAMILIES)}")
    family = FAMILIES[origin.family]
    return family.architecture_class()(family.config_class().model_validate(origin.architecture))


def _check_size(net: Architecture, size: int) -> None:
    """Raise ValueError for images that the network does not take."""
    if net.multiple_of is None and size != net.size:
        raise ValueError(f"it takes images of {net.size}x{net.size} pixels only")
    if size % (net.multiple_of or 1):
        raise ValueError(f"image_size {size} should be a multiple of {net.multiple_of}")


def _posterior(net: Architecture, encoded: Tensor) -> Posterior:
    mean, log_variance = encoded.float().chunk(2, dim=1)
    return Posterior(mean, log_variance.clamp(*net.log_variances))


def _last_part(net: Architecture) -> nn.Module:
    """The part that makes pixels."""
    parts = dict(net.named_children())
    return parts.get("pixel_decoder") or parts["decoder"]
