"""A classifier of MNIST digits, to judge samples by: independent of every model that is judged.

It is trained on the training images, and its accuracy on the test images is printed. Nothing in ``trainer``
knows of it.
"""

from pathlib import Path
from typing import cast

import click
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainer.data import Batches, load

DEFAULT_FILE = Path("build/classifier.safetensors")
EPOCHS = 8
BATCH = 128
SHIFT = 2


class Classifier(nn.Module):
    """uint8 ``(N, 1, 28, 28)`` to logits ``(N, 10)``."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_block(1, 32),
            *_block(32, 32),
            nn.MaxPool2d(2),
            *_block(32, 64),
            *_block(64, 64),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(64 * 49, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images.float() / 255)
        return logits


def _block(narrow: int, wide: int) -> list[nn.Module]:
    return [nn.Conv2d(narrow, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]


def _shifted(images: Tensor) -> Tensor:
    """Each batch moved by up to two pixels each way: the digits of samples need not be centred."""
    down, right = torch.randint(-SHIFT, SHIFT + 1, (2,)).tolist()
    padded = F.pad(images, (SHIFT,) * 4)
    return padded[:, :, SHIFT + down : SHIFT + down + 28, SHIFT + right : SHIFT + right + 28]


def fitted(seed: int = 0, epochs: int = EPOCHS) -> Classifier:
    """A classifier trained from a seed."""
    torch.manual_seed(seed)
    model = Classifier().to(memory_format=torch.channels_last)
    batches = Batches(load("mnist").train, BATCH, seed=seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=epochs * len(batches))
    for epoch in range(epochs):
        for batch in batches.epoch(epoch):
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(model(_shifted(batch.images)), cast("Tensor", batch.labels))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        click.echo(f"epoch {epoch + 1}/{epochs}: loss {loss.item():.4f}", err=True)
    return model.eval()


@torch.no_grad()
def accuracy(model: Classifier) -> float:
    """Share of the 10,000 test images whose class it names."""
    right = 0
    for batch in Batches(load("mnist").test, 500).ordered():
        right += int((model(batch.images).argmax(dim=1) == batch.labels).sum())
    return right / 10_000


def classifier(file: Path = DEFAULT_FILE) -> Classifier:
    """The classifier in ``file``, trained and kept there if there is none."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        model = fitted()
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, file)
    model = Classifier()
    model.load_state_dict(load_file(file))
    return model.eval()


@click.command("classifier")
@click.option("--file", type=click.Path(path_type=Path), default=DEFAULT_FILE, show_default=True)
def command(file: Path) -> None:
    """Train the classifier that judges samples; its test accuracy."""
    click.echo(f"test accuracy {accuracy(classifier(file)):.2%}")
