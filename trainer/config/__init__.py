"""A frozen config for each kind of model, and the presets.

The fields of a config are the keys of the YAML files, and, with dashes, the flags.
"""

from trainer.config.base import ConvolutionalConfig, RunConfig, Schedule
from trainer.config.gaussian import GaussianConfig, NCPConfig, VAEConfig
from trainer.config.imported import FINETUNE, CheckpointConfig, FinetuneConfig, ImportConfig
from trainer.config.layers import (
    PRESETS,
    check_effects,
    check_keys,
    check_start,
    config_class,
    in_epochs,
    laid_over,
    needed,
    needs_of,
    presets,
    read_config,
    read_yaml,
    resolve,
    shown,
    validated,
)
from trainer.config.losses import LossesConfig
from trainer.config.vlae import VLAEConfig
from trainer.config.vqvae import VQVAEConfig

__all__ = [
    "FINETUNE",
    "PRESETS",
    "CheckpointConfig",
    "ConvolutionalConfig",
    "FinetuneConfig",
    "GaussianConfig",
    "ImportConfig",
    "LossesConfig",
    "NCPConfig",
    "RunConfig",
    "Schedule",
    "VAEConfig",
    "VLAEConfig",
    "VQVAEConfig",
    "check_effects",
    "check_keys",
    "check_start",
    "config_class",
    "in_epochs",
    "laid_over",
    "needed",
    "needs_of",
    "presets",
    "read_config",
    "read_yaml",
    "resolve",
    "shown",
    "validated",
]
