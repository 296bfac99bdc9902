"""beta-VAE with a noise contrastive prior (Aneja et al., 2010.02917)."""

import torch

from service.manifest import ImageSpec
from trainer.config import NCPConfig
from trainer.gaussian.stage import ClassifierStage
from trainer.kinds.vae import VAE
from trainer.stage import to_shares


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
