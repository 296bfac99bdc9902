"""beta-VAE with a noise contrastive prior (Aneja et al., 2010.02917)."""

import torch

from service.contract.manifest import ImageSpec
from trainer.config import NCPConfig
from trainer.models.base import to_shares
from trainer.models.gaussian.noise_contrastive import ClassifierStage
from trainer.models.vae import VAE


class NCP(VAE):
    """A VAE, and upon it a classifier between aggregate posterior and prior: the energy of a new prior."""

    def __init__(self, config: NCPConfig, image: ImageSpec, variance: float, classes: int = 0) -> None:
        super().__init__(config, image, variance, classes)
        self.contrast = config

    def second_stage(self, _classes: int) -> ClassifierStage:
        # Functions rather than the module: the weights of the stage are its own alone.
        return ClassifierStage(
            self.contrast,
            posterior=lambda images: torch.cat(self.posterior(to_shares(images)), dim=1),
            decode=lambda codes: self.decoded(codes),
        )
