"""The losses that are added to the reconstruction error: which of them a config has, and their weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from service.contract.manifest import ImageSpec
from trainer.config import FinetuneConfig, VAEConfig, VQVAEConfig
from trainer.config.base import NONE
from trainer.data.batches import Batches
from trainer.data.sources.pictures import LongStep
from trainer.models.losses.distances import WINDOW, frequency_loss, ms_ssim_loss
from trainer.models.losses.feature_distance import FeatureDistance
from trainer.models.losses.learned_features import learned_features

Loss = Callable[[Tensor, Tensor], Tensor]
# VGG16 halves a picture four times.
VGG16_SMALLEST_SIDE = 16


class AddedLosses:
    """Reconstructions and targets, float32 ``(B, C, H, W)`` in [-1, 1], to weighted losses by name.

    Each is a scalar, the mean over the batch, in units of the squared error of a value in [0, 1]. A new loss
    is a field of ``LossesConfig`` and a line here.

    It is no module: the networks of losses are in no checkpoint and in no exported model, and copies of a
    model share them. Raises ValueError for images that are too small for a loss.
    """

    def __init__(
        self, config: VQVAEConfig | VAEConfig | FinetuneConfig, image: ImageSpec, classes: int
    ) -> None:
        self._config, self._channels, self._classes = config, image.channels, classes
        self._distance: FeatureDistance | None = None
        perceptual = config.perceptual_weight if config.perceptual != NONE else 0.0
        side = VGG16_SMALLEST_SIDE if config.perceptual_file else 1
        losses: dict[str, tuple[float, int, Loss]] = {
            "perceptual_loss": (perceptual, side, self._perceptual),
            "ms_ssim_loss": (config.ms_ssim_weight, WINDOW, ms_ssim_loss),
            "frequency_loss": (config.frequency_weight, 1, frequency_loss),
        }
        self._losses = {name: (weight, loss) for name, (weight, _, loss) in losses.items() if weight}
        for name in self._losses:
            smallest = losses[name][1]
            if min(image.height, image.width) < smallest:
                raise ValueError(
                    f"the {name} takes images of at least {smallest}x{smallest} pixels, "
                    f"not {image.height}x{image.width}"
                )

    def prepare(self, train: Batches, folder: Path, step: LongStep) -> None:
        """Load the network of the perceptual loss, or have it learn from training images.

        ``folder`` is that of the run, which keeps what was learned. Raises DataError for a file that is not
        what it should be, RunError if the folder cannot be written.
        """
        if "perceptual_loss" not in self._losses:
            return
        if self._config.perceptual_file is None:
            network = learned_features(self._channels, self._classes, train, folder, step)
            self._distance = FeatureDistance(network)
            return
        # torchvision takes a second to import.
        from trainer.models.losses.lpips import lpips

        with step("reading the weights of the perceptual loss"):
            self._distance = lpips(self._config.perceptual_file, self._config.perceptual_sha256)

    def __call__(self, reconstruction: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {name: weight * loss(reconstruction, target) for name, (weight, loss) in self._losses.items()}

    def __deepcopy__(self, _memo: dict[int, Any]) -> Self:
        return self

    def _perceptual(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        if self._distance is None:
            raise ValueError("the perceptual loss has no network before prepare()")
        distance: Tensor = self._distance.to(target.device)(reconstruction, target)
        return distance
