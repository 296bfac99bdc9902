"""The reference classifier of digits: small, trained on MNIST, frozen, independent of all measured models.

``python -m tests.benchmarks classifier`` trained it, on the training images alone;
docs/benchmarks/models.md has its accuracy.
"""

from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from trainer.models.base import to_shares

FILE = Path(__file__).with_name("reference_classifier.safetensors")
FEATURES, CLASSES = 128, 10
AT_ONCE = 500


class ReferenceClassifier(nn.Module):
    """Digits, uint8 ``(N, 1, 28, 28)``, to logits, float32 ``(N, 10)``."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(1, 32),
            nn.MaxPool2d(2),
            *_block(32, 64),
            *_block(64, 64),
            nn.MaxPool2d(2),
            *_block(64, FEATURES),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(FEATURES, CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.penultimate(images))
        return logits

    def penultimate(self, images: Tensor) -> Tensor:
        """The features before the last layer: uint8 ``(N, 1, 28, 28)`` to float32 ``(N, 128)``."""
        features: Tensor = self.features(to_shares(images))
        return features


def _block(narrow: int, wide: int) -> list[nn.Module]:
    return [nn.Conv2d(narrow, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]


@cache
def reference_classifier(file: Path = FILE) -> ReferenceClassifier:
    """The classifier with its trained weights. Raises FileNotFoundError if there is no such file."""
    model = ReferenceClassifier()
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(file).items()})
    return model.eval().requires_grad_(requires_grad=False)


@torch.no_grad()
def classified(model: ReferenceClassifier, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features and class of each image: float32 ``(N, 128)`` and int64 ``(N,)``."""
    features = torch.cat([model.penultimate(some) for some in images.split(AT_ONCE)])
    return features, model.head(features).argmax(dim=1)
