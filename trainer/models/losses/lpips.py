"""LPIPS (1801.03924): the distance of pictures in features of VGG16, weighed as people compare pictures.

It takes two files. The network is the user's file, as torchvision publishes it. The weights of the channels
(LPIPS 0.1) come with torchmetrics. Both are known by their sha256, and nothing is downloaded.
"""

from collections.abc import Mapping
from importlib.resources import as_file, files
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import vgg16

from trainer.config.losses import VGG16_WEIGHTS
from trainer.config.weight_files import checked_sha256
from trainer.errors import CheckpointError, DataError
from trainer.models.losses.feature_distance import FeatureDistance
from trainer.pretrained.checkpoint_files import CheckpointFiles

# The layers of torchvision's network after which the features are compared: relu1_2 to relu5_3.
LAYERS = (4, 9, 16, 23, 30)
CHANNEL_WEIGHTS = {
    "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868": "vgg.pth of LPIPS 0.1 in torchmetrics"
}
# Mean and standard deviation of the pixels of ImageNet, in [-1, 1], as LPIPS has them.
MEANS, DEVIATIONS = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class VGG16(nn.Module):
    """Pictures, float32 ``(B, C, H, W)`` in [-1, 1] of 1 or 3 channels, to the features of five layers.

    ``weights`` are those of torchvision's VGG16 by name; those of the classifier may be there or not. Raises
    DataError if one is missing or has another shape.
    """

    means: Tensor
    deviations: Tensor

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        # Without memory and without random weights: those of the file are assigned.
        with torch.device("meta"):
            network = vgg16(init_weights=False).features
        expected = network.state_dict()
        given = {name: weights.get(f"features.{name}", torch.empty(0)) for name in expected}
        for name, tensor in expected.items():
            if given[name].shape != tensor.shape:
                raise DataError(
                    f"--perceptual is no file of the weights of VGG16: features.{name} "
                    f"is {list(given[name].shape)}, not {list(tensor.shape)}"
                )
        network.load_state_dict(given, assign=True)
        self.layers = nn.ModuleList(network[first:last] for first, last in pairwise((0, *LAYERS)))
        self.register_buffer("means", torch.tensor(MEANS)[:, None, None])
        self.register_buffer("deviations", torch.tensor(DEVIATIONS)[:, None, None])

    def forward(self, pictures: Tensor) -> list[Tensor]:
        found, x = [], (pictures.expand(-1, 3, -1, -1) - self.means) / self.deviations
        for layer in self.layers:
            x = layer(x)
            found.append(x)
        return found


def lpips(file: Path, sha256: str | None = None) -> FeatureDistance:
    """LPIPS with the weights of VGG16 in a file, which has this ``sha256``, or that of torchvision's.

    Raises DataError if it does not, or is no file of tensors.
    """
    checked_sha256("--perceptual", file, sha256, VGG16_WEIGHTS)
    try:
        network = VGG16(CheckpointFiles(file, None).read_tensors())
    except CheckpointError as error:
        raise DataError(f"--perceptual {error}") from error
    return FeatureDistance(network, channel_weights())


def channel_weights() -> list[Tensor]:
    """The weights of the channels of each layer, float32 ``(D,)``, not below 0. Raises DataError."""
    with as_file(files("torchmetrics.functional.image") / "lpips_models" / "vgg.pth") as file:
        checked_sha256("--perceptual: torchmetrics' file", file, None, CHANNEL_WEIGHTS)
        found = torch.load(file, map_location="cpu", weights_only=True)
    return [found[f"lin{layer}.model.1.weight"].flatten() for layer in range(len(LAYERS))]
