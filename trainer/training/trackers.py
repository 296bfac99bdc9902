"""Where the figures and pictures of a run go besides the run folder: TensorBoard, Weights & Biases."""

from typing import Protocol

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from trainer.errors import ConfigError
from trainer.training.run_folder import Record, Run


class Tracker(Protocol):
    """Something that keeps the figures and pictures of a run."""

    def record(self, record: Record) -> None:
        """Keep one epoch's figures."""

    def picture(self, name: str, pixels: Tensor, epoch: int) -> None:
        """Keep a picture, uint8 ``(C, H, W)``."""

    def close(self) -> None:
        """Write out what is pending."""


class TensorBoard:
    """Scalars and pictures as TensorBoard events in the run folder."""

    def __init__(self, run: Run, first_epoch: int) -> None:
        self._writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=first_epoch)

    def record(self, record: Record) -> None:
        for name, value in record.items():
            self._writer.add_scalar(name, value, int(record["epoch"]))

    def picture(self, name: str, pixels: Tensor, epoch: int) -> None:
        self._writer.add_image(name, pixels, epoch)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """The same for Weights & Biases; its own environment variables say where and in which mode."""

    def __init__(self, run: Run) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ConfigError(
                "--wandb needs packages that are not installed: install the extra 'wandb'"
            ) from error
        self._wandb = wandb
        self._run = wandb.init(
            project="tessera",
            name=run.title,
            dir=str(run.folder),
            config=run.config.model_dump(mode="json"),
        )

    def record(self, record: Record) -> None:
        self._run.log(dict(record), step=int(record["epoch"]))

    def picture(self, name: str, pixels: Tensor, epoch: int) -> None:
        self._run.log({name: self._wandb.Image(pixels.permute(1, 2, 0).numpy())}, step=epoch)

    def close(self) -> None:
        self._run.finish()


def trackers(run: Run, first_epoch: int) -> list[Tracker]:
    """The trackers of a run by its config."""
    chosen: list[Tracker] = [TensorBoard(run, first_epoch)]
    if run.config.wandb:
        chosen.append(WeightsAndBiases(run))
    return chosen
