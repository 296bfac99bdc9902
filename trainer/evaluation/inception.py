"""rFID: the Frechet distance of reconstructions to their originals in features of InceptionV3 (1706.08500).

The weights are those of the network with which FID was defined, as pytorch-fid and torch-fidelity publish
them; they are a file of the user's, and nothing is downloaded. Its keys are those of torchvision's
InceptionV3, of which this network differs in the pools before the last convolution of a block.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchvision.models.inception import (
    BasicConv2d,
    Inception3,
    InceptionA,
    InceptionAux,
    InceptionB,
    InceptionC,
    InceptionD,
    InceptionE,
)

from trainer.errors import DataError
from trainer.evaluation.exported_model import Reconstructed
from trainer.evaluation.reconstructions import RFID

FEATURES, CLASSES = 2048, 1008
SIDE = 299
# Images at once, of which the widest layer takes 6 MB each.
AT_ONCE = 16


class Inception(nn.Module):
    """Images, uint8 ``(N, C, H, W)`` of 1 or 3 channels, to features, float32 ``(N, 2048)``.

    Images are resized to 299 x 299 bilinearly, without a filter against aliasing, as pytorch-fid does.
    Raises DataError if ``weights`` lacks a tensor, or has another one or one of another shape.
    """

    num_features = FEATURES

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        net = _network()
        _check(net.state_dict(), weights)
        net.load_state_dict(weights, assign=True)
        net.fc = nn.Identity()
        self.net = net.eval().requires_grad_(requires_grad=False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self._features(some) for some in images.split(AT_ONCE)])

    def _features(self, images: Tensor) -> Tensor:
        shares = images.expand(-1, 3, -1, -1).float() / 255
        resized = F.interpolate(shares, (SIDE, SIDE), mode="bilinear", align_corners=False)
        features: Tensor = self.net(2 * resized - 1)
        return features


class ReconstructionDistance:
    """rFID of reconstructions, added batch by batch: sums and products of features are held, no features."""

    def __init__(self, weights: Path, sha256: str) -> None:
        """``weights`` has this ``sha256``. Raises DataError if it holds no weights of this network."""
        self._distance = FrechetInceptionDistance(feature=Inception(_read(weights)))
        self.settings: dict[str, str | int] = {
            "fid_weights": sha256,
            "fid_resize": f"bilinear to {SIDE}x{SIDE}, not antialiased",
        }

    def add(self, batch: Reconstructed) -> None:
        """Add a batch."""
        for images, real in ((batch.images, True), (batch.decoded, False)):
            self._distance.update(images.permute(0, 3, 1, 2), real=real)

    def values(self) -> dict[str, float]:
        """``rfid``; nothing for a single image, which has no covariance."""
        if int(self._distance.real_features_num_samples) < 2:
            return {}
        return {RFID: float(self._distance.compute())}


def _mean(x: Tensor) -> Tensor:
    """The mean of 3 x 3 cells, of which those beyond the border do not count."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _largest(x: Tensor) -> Tensor:
    """The largest of 3 x 3 cells."""
    return F.max_pool2d(x, 3, stride=1, padding=1)


class _A(InceptionA):  # type: ignore[misc] # torchvision has no types
    def forward(self, x: Tensor) -> Tensor:
        once = self.branch5x5_2(self.branch5x5_1(x))
        twice = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), once, twice, self.branch_pool(_mean(x))], 1)


class _C(InceptionC):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), once, twice, self.branch_pool(_mean(x))], 1)


class _E(InceptionE):  # type: ignore[misc]
    pool = staticmethod(_mean)

    def forward(self, x: Tensor) -> Tensor:
        once = self.branch3x3_1(x)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        wide = [self.branch3x3_2a(once), self.branch3x3_2b(once)]
        wider = [self.branch3x3dbl_3a(twice), self.branch3x3dbl_3b(twice)]
        return torch.cat([self.branch1x1(x), *wide, *wider, self.branch_pool(self.pool(x))], 1)


class _LastE(_E):
    pool = staticmethod(_largest)


def _network() -> nn.Module:
    # Without memory and without random weights: those of the file take their place.
    with torch.device("meta"):
        net: nn.Module = Inception3(
            num_classes=CLASSES,
            aux_logits=False,
            inception_blocks=[BasicConv2d, _A, InceptionB, _C, InceptionD, _E, InceptionAux],
            init_weights=False,
        )
        net.Mixed_7c = _LastE(FEATURES)
    return net


def _read(file: Path) -> dict[str, Tensor]:
    """The tensors of a file by name; nothing in it is executed."""
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise DataError(f"--fid-weights {file} is no file of tensors that torch reads") from error
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise DataError(f"--fid-weights {file} is no state dict, which has a tensor by each name")
    return found


def _check(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Raise DataError for the first tensor that is missing, left over or of another shape."""
    complaint = "--fid-weights are not those of InceptionV3 for FID"
    for name in [*expected, *given]:
        if name not in given or name not in expected:
            state = "is missing" if name in expected else "is left over"
            raise DataError(f"{complaint}: {name} {state}")
        shapes = [list(tensors[name].shape) for tensors in (given, expected)]
        if shapes[0] != shapes[1]:
            raise DataError(f"{complaint}: {name} is {shapes[0]}, not {shapes[1]}")
