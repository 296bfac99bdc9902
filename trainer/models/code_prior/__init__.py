"""The second stage of a VQ-VAE: a prior over its codes, from which it can generate."""

from trainer.models.code_prior.stage import PriorStage

__all__ = ["PriorStage"]
