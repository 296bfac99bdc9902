"""From a config to a published model: load the data, fit, export."""

from trainer.pipeline.commands import export_run, resume, train

__all__ = ["export_run", "resume", "train"]
