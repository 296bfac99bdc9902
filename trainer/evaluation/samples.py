"""How samples of digits compare with real ones, in the features of the reference classifier.

The distance is called MNIST-FD, and is no FID: its features are those of a small classifier of digits.
"""

import contextlib
import io
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.evaluation.reference_classifier import FEATURES, ReferenceClassifier, classified

NEAREST = 5


class _Features(nn.Identity):
    """Instead of a feature network: the inputs are features already."""

    num_features = FEATURES


def frechet_distance(reference: Tensor, others: Tensor) -> float:
    """Frechet distance of normal distributions fitted to features, float32 ``(N, 128)`` (1706.08500)."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    distance = FrechetInceptionDistance(feature=_Features())
    distance.update(reference, real=True)
    distance.update(others, real=False)
    return float(distance.compute())


@dataclass(frozen=True)
class Reference:
    """Real digits that samples are compared with: their features, float32 ``(N, 128)``."""

    classifier: ReferenceClassifier
    features: Tensor

    @classmethod
    def of(cls, classifier: ReferenceClassifier, images: Tensor) -> "Reference":
        """Of real images, uint8 ``(N, 1, 28, 28)``."""
        return cls(classifier, classified(classifier, images)[0])

    def compare(self, images: Tensor, labels: Tensor | None = None) -> dict[str, float]:
        """Metrics of images, uint8 ``(N, 1, 28, 28)``, at least 6 of them.

        - ``mnist_fd``: Frechet distance of the features; 0 is best
        - ``precision``, ``recall``: shares of the images near real ones, and of real ones near images
          (1904.06991)
        - ``density``, ``coverage``: the same, less moved by outliers (2002.09797)
        - ``accuracy``: share that the classifier assigns to the class of ``labels``, int64 ``(N,)``, if given
        """
        # These and torchmetrics take as long to import as torch, so a start of the trainer does not wait.
        import joblib
        from prdc import compute_prdc

        features, found = classified(self.classifier, images)
        # It prints how many images there are, and starts threads, which gain nothing here and race for
        # the process's warning filters.
        with contextlib.redirect_stdout(io.StringIO()), joblib.parallel_config(backend="sequential"):
            manifold = compute_prdc(self.features.numpy(), features.numpy(), nearest_k=NEAREST)
        values = {"mnist_fd": frechet_distance(self.features, features)}
        values |= {name: float(value) for name, value in manifold.items()}
        if labels is not None:
            values["accuracy"] = float((found == labels).float().mean())
        return values


def spread_labels(count: int, classes: int) -> Tensor:
    """Labels with every class equally often: int64 ``(count,)``."""
    return torch.arange(count) % classes
