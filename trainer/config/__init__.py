"""One frozen config per model kind, and the presets.

A config is put together from three layers: the preset's YAML, over it ``--config FILE.yaml``, over it the
flags. The keys of the YAML are the names of the fields, and so are the flags, with dashes.
"""

from trainer.config.base import RunConfig, Schedule
from trainer.config.gaussian import GaussianConfig, NCPConfig, VAEConfig
from trainer.config.resolution import (
    CONFIGS,
    DEFAULT_PRESETS,
    PRESETS,
    check_keys,
    presets,
    read_yaml,
    resolve,
    validated,
)
from trainer.config.vlae import VLAEConfig
from trainer.config.vqvae import VQVAEConfig

__all__ = [
    "CONFIGS",
    "DEFAULT_PRESETS",
    "PRESETS",
    "GaussianConfig",
    "NCPConfig",
    "RunConfig",
    "Schedule",
    "VAEConfig",
    "VLAEConfig",
    "VQVAEConfig",
    "check_keys",
    "presets",
    "read_yaml",
    "resolve",
    "validated",
]
