"""A frozen config for each kind of model, and the presets.

A config is put together from three layers: the preset's YAML, over it ``--config FILE.yaml``, over it the
flags. The keys of the YAML are the names of the fields, and so are the flags, with dashes.
"""

from trainer.config.base import ConvolutionalConfig, RunConfig, Schedule
from trainer.config.gaussian import GaussianConfig, NCPConfig, VAEConfig
from trainer.config.resolution import (
    PRESETS,
    check_keys,
    config_class,
    presets,
    read_yaml,
    resolve,
    validated,
)
from trainer.config.vlae import VLAEConfig
from trainer.config.vqvae import VQVAEConfig

__all__ = [
    "PRESETS",
    "ConvolutionalConfig",
    "GaussianConfig",
    "NCPConfig",
    "RunConfig",
    "Schedule",
    "VAEConfig",
    "VLAEConfig",
    "VQVAEConfig",
    "check_keys",
    "config_class",
    "presets",
    "read_yaml",
    "resolve",
    "validated",
]
