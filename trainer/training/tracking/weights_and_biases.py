"""Weights & Biases: the metrics and pictures of a run, and whether a run could log there."""

import importlib.util
from typing import TYPE_CHECKING

from trainer.errors import ConfigError, needs
from trainer.training.run_folder import Record, RunFolder

if TYPE_CHECKING:
    from torch import Tensor

PACKAGE = "wandb"
# The modes in which nothing is sent anywhere.
LOCAL = ("offline", "disabled")


def check() -> None:
    """Raise ConfigError if the package or a key is missing: before training, and before torch is imported."""
    if importlib.util.find_spec(PACKAGE) is None:
        raise ConfigError(needs("--wandb", "wandb", PACKAGE))
    import wandb

    try:
        ready = wandb.setup().settings.mode in LOCAL or wandb.login(prompt=False, verify=False)
    except wandb.Error as error:
        raise ConfigError(f"--wandb cannot be used: {' '.join(str(error).split())}") from error
    if not ready:
        raise ConfigError(
            "--wandb finds no key: run `wandb login`, set WANDB_API_KEY, or set WANDB_MODE=offline"
        )


class WeightsAndBiases:
    """A tracker that logs to Weights & Biases; its own environment variables say where and in which mode.

    Raises ConfigError if it does not start.
    """

    def __init__(self, run: RunFolder) -> None:
        check()
        import wandb

        self._wandb = wandb
        try:
            self._run = wandb.init(
                project="tessera",
                name=run.title,
                dir=str(run.folder),
                config=run.config.model_dump(mode="json"),
            )
        except wandb.Error as error:
            raise ConfigError(f"--wandb cannot be used: {' '.join(str(error).split())}") from error

    def record(self, record: Record) -> None:
        """Keep the metrics of one epoch."""
        self._run.log(dict(record), step=int(record["epoch"]))

    def picture(self, name: str, pixels: "Tensor", epoch: int) -> None:
        """Keep a picture, uint8 ``(C, H, W)``."""
        self._run.log({name: self._wandb.Image(pixels.permute(1, 2, 0).numpy())}, step=epoch)

    def close(self) -> None:
        """Write out what is pending."""
        self._run.finish()
