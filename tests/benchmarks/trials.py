"""A model trained and measured as the trainer does it, in torch and without an export: for tables."""

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import Tensor

from trainer.config import VQVAEConfig
from trainer.data.batches import Batches
from trainer.data.loading import Dataset
from trainer.evaluation.exported_model import Reconstructed
from trainer.evaluation.reconstructions import Reconstructions
from trainer.models.base import to_pixels, to_unit
from trainer.models.vqvae import VQVAE
from trainer.training.device import choose
from trainer.training.loop import Fit
from trainer.training.run_folder import RunFolder

VARIANCE_IMAGES = 4096
TIMED_STEPS = 10


@dataclass(frozen=True)
class FinishedRows:
    """The rows of a table that are done, in a file, a line each with the settings that it was made with."""

    file: Path
    settings: Mapping[str, Any]

    def read(self) -> dict[tuple[str, str], dict[str, float]]:
        """The values that were made with these settings, by row and part of it, a side or a seed."""
        if not self.file.exists():
            return {}
        lines = map(json.loads, self.file.read_text(encoding="utf-8").splitlines())
        return {
            (line["row"], line["part"]): line["values"] for line in lines if line["settings"] == self.settings
        }

    def add(self, row: str, part: str, values: Mapping[str, float]) -> None:
        """Keep the values of a part of a row."""
        line = {"row": row, "part": part, "values": values, "settings": self.settings}
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")


def built(config: VQVAEConfig, dataset: Dataset) -> VQVAE:
    """A new model by the seed of its config."""
    images = dataset.train.take(torch.arange(min(VARIANCE_IMAGES, len(dataset.train)))).images
    torch.manual_seed(config.seed)
    return VQVAE(config, dataset.spec, float((images.float() / 255).var(correction=0)))


class Fitted(NamedTuple):
    """A trained model, the seconds of CPU time from its first epoch to its last, and what its guard undid."""

    model: VQVAE
    seconds: float
    undone: Sequence[str]


def fitted(model: VQVAE, dataset: Dataset, run: RunFolder, console: Console) -> Fitted:
    """The model, trained as the trainer trains it."""
    config = model.config
    machine = choose(config)
    train = Batches(dataset.train, config.batch_size, seed=config.seed, device=machine.device)
    test = Batches(dataset.test, config.batch_size, seed=config.seed, device=machine.device)
    fit = Fit(model, config.schedule(), train, test, run, machine, console)
    fit.begin()
    started = time.process_time()
    fit()
    seconds = time.process_time() - started
    return Fitted(fit.result.cpu().float().eval(), seconds, fit.guard.reports if fit.guard else ())


@torch.no_grad()
def _decoded(model: VQVAE, images: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and reconstructions of images, uint8 ``(N, C, H, W)``: not every quantizer is exported."""
    quantized = model.quantizer(model.encoder(to_unit(images)))
    return quantized.codes, to_pixels(model.decoder(quantized.vectors))


def measured(model: VQVAE, dataset: Dataset) -> dict[str, float]:
    """Figures on the test images."""
    figures = Reconstructions(model.codes_spec())
    for batch in Batches(dataset.test, model.config.batch_size).ordered():
        codes, decoded = _decoded(model, batch.images)
        images, decoded = (rows.permute(0, 2, 3, 1) for rows in (batch.images, decoded))
        figures.add(Reconstructed(images, codes, decoded))
    return figures.values()


def reconstructed(model: VQVAE, dataset: Dataset) -> tuple[Tensor, Tensor]:
    """The test images and their reconstructions, uint8 ``(N, C, H, W)``."""
    batches = Batches(dataset.test, model.config.batch_size).ordered()
    pairs = [(batch.images, _decoded(model, batch.images)[1]) for batch in batches]
    images, decoded = zip(*pairs, strict=True)
    return torch.cat(images), torch.cat(decoded)


def rate(model: VQVAE, dataset: Dataset) -> float:
    """Images a second of a training step, by CPU time: median over a few steps."""
    model.train()
    images = dataset.train.take(torch.arange(model.config.batch_size)).images
    optimizer = torch.optim.AdamW(parameter for parameter in model.parameters() if parameter.requires_grad)
    mixed = choose(model.config).precision == "bf16-mixed"
    seconds = []
    for _ in range(TIMED_STEPS):
        started = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = model(images).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.process_time() - started)
    return len(images) / statistics.median(seconds)
