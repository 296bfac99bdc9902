"""What models share whose codes are a vector: an encoder to a Gaussian posterior, and a decoder."""

import torch
from torch import Tensor, nn

from service.contract.manifest import CodesSpec, ImageSpec
from trainer.config import GaussianConfig
from trainer.models.base import Model, to_shares
from trainer.models.gaussian.posterior import Posterior
from trainer.models.layers.convolutional import Decoder, Encoder


class GaussianModel(Model):
    """An encoder to ``Posterior``, and a decoder from codes to ``outputs`` channels in the images' size."""

    anew = frozenset({"steps"})
    steps: Tensor

    def __init__(self, config: GaussianConfig, image: ImageSpec, outputs: int) -> None:
        super().__init__()
        self.config = config
        self.image = image
        self.encoder, self.decoder = self._networks(outputs)
        # Of training, for the warm-up: in the checkpoint with the weights.
        self.register_buffer("steps", torch.tensor(0))

    def _networks(self, outputs: int) -> tuple[nn.Sequential, nn.Sequential]:
        """The encoder to mean and log-variance, ``(B, 2 d)``, and the decoder from codes, ``(B, d)``."""
        config, image = self.config, self.image
        net = config.layers(image)
        neck = (config.neck_width, image.height // config.stride, image.width // config.stride)
        size = neck[0] * neck[1] * neck[2]
        encoder = nn.Sequential(
            Encoder(image.channels, config.neck_width, **net),
            nn.Flatten(),
            nn.Linear(size, 2 * config.latent_dim),
        )
        decoder = nn.Sequential(
            nn.Linear(config.latent_dim, size),
            nn.Unflatten(1, neck),
            Decoder(outputs, config.neck_width, **net, upsampling=config.upsampling),
        )
        return encoder, decoder

    def posterior(self, pixels: Tensor) -> Posterior:
        """q(z|x) of pixels, float32 ``(B, C, H, W)`` in [0, 1]."""
        return Posterior.of(self.encoder(pixels * 2 - 1))

    def kl_warmup(self) -> Tensor:
        """The weight of the KL divergence in this step, which rises to 1; in training, count the step."""
        done = self.steps.clone()
        if self.training:
            self.steps += 1
        if not self.config.kl_warmup_steps:
            return torch.ones_like(done)
        return (done / self.config.kl_warmup_steps).clamp(max=1)

    def image_spec(self) -> ImageSpec:
        return self.image

    def codes_spec(self) -> CodesSpec:
        return CodesSpec(dtype="float32", shape=(self.config.latent_dim,))

    @torch.no_grad()
    def code_gap(self, images: Tensor, codes: Tensor) -> Tensor:
        """The difference over the code itself, where that is more than 1."""
        own = self.posterior(to_shares(images.permute(0, 3, 1, 2))).mean
        # A grid has its channels last outside.
        own = own.movedim(1, -1)
        return (codes - own).abs() / own.abs().clamp(min=1)
