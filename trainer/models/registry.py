"""The registry of model kinds: what ``python -m trainer KIND`` can train."""

from collections.abc import Callable, Mapping
from typing import Any

from service.contract.manifest import ImageSpec
from trainer.config import RunConfig
from trainer.models.base import Model
from trainer.models.ncp import NCP
from trainer.models.vae import VAE
from trainer.models.vlae import VLAE
from trainer.models.vqvae import VQVAE

__all__ = ["KINDS", "build"]

# Config of the kind, images of the data, variance of their pixels in [0, 1], number of their classes or 0.
Builder = Callable[[Any, ImageSpec, float, int], Model]

KINDS: Mapping[str, Builder] = {"vqvae": VQVAE, "vlae": VLAE, "vae": VAE, "ncp": NCP}


def build(config: RunConfig, image: ImageSpec, variance: float, classes: int = 0) -> Model:
    """A new model of the config's kind."""
    return KINDS[config.kind](config, image, variance, classes)
