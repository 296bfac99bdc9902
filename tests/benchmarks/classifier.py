"""Training the reference classifier of samples on the training images of MNIST."""

from pathlib import Path
from typing import cast

import click
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from trainer.data.batches import Batches
from trainer.data.loading import load
from trainer.evaluation.reference_classifier import (
    FILE,
    ReferenceClassifier,
    classified,
    reference_classifier,
)

EPOCHS = 8
BATCH = 128
SHIFT = 2


def _shifted(images: Tensor) -> Tensor:
    """Each batch moved by up to two pixels each way: the digits of samples need not be centred."""
    down, right = torch.randint(-SHIFT, SHIFT + 1, (2,)).tolist()
    padded = F.pad(images, (SHIFT,) * 4)
    return padded[:, :, SHIFT + down : SHIFT + down + 28, SHIFT + right : SHIFT + right + 28]


def fitted(seed: int = 0, epochs: int = EPOCHS) -> ReferenceClassifier:
    """A classifier trained from a seed."""
    torch.manual_seed(seed)
    model = ReferenceClassifier().to(memory_format=torch.channels_last)
    batches = Batches(load("mnist").train, BATCH, seed=seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=epochs * len(batches))
    for epoch in range(epochs):
        for batch in batches.epoch(epoch):
            loss = F.cross_entropy(model(_shifted(batch.images)), cast("Tensor", batch.labels))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        click.echo(f"epoch {epoch + 1}/{epochs}: loss {loss.item():.4f}", err=True)
    return model.eval()


def accuracy(model: ReferenceClassifier) -> float:
    """Share of the 10,000 test images whose class it names."""
    split = load("mnist").test
    batch = split.take(torch.arange(len(split)))
    return float((classified(model, batch.images)[1] == cast("Tensor", batch.labels)).float().mean())


@click.command("classifier")
@click.option("--file", type=click.Path(path_type=Path), default=FILE, show_default=True)
def command(file: Path) -> None:
    """Train the reference classifier, write it to FILE; its test accuracy."""
    state = fitted().state_dict()
    save_file({name: _kept(tensor) for name, tensor in state.items()}, file)
    click.echo(f"test accuracy {accuracy(reference_classifier(file)):.2%}")


def _kept(tensor: Tensor) -> Tensor:
    """Half the size, and as exact as it needs to be."""
    return tensor.contiguous().half() if tensor.is_floating_point() else tensor
