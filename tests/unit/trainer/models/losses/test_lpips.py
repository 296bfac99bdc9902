"""LPIPS, with random weights in the layout of torchvision's file."""

import hashlib
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.errors import DataError
from trainer.models.losses import lpips
from trainer.models.losses.lpips import VGG16, channel_weights

# Channels of the convolutions of VGG16 (1409.1556, table 1, D), by the place in torchvision's network.
CONVOLUTIONS = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256, 17: 512, 19: 512, 21: 512}
CONVOLUTIONS |= {24: 512, 26: 512, 28: 512}
POOLED_BEFORE, COMPARED_AFTER = (5, 10, 17, 24), (2, 7, 14, 21, 28)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """Weights that keep the size of the activations."""
    generator, narrow, found = torch.Generator().manual_seed(0), 3, {}
    for place, wide in CONVOLUTIONS.items():
        kernel = torch.randn(wide, narrow, 3, 3, generator=generator) * math.sqrt(2 / (9 * narrow))
        found[f"features.{place}.weight"] = kernel
        found[f"features.{place}.bias"] = 0.1 * torch.randn(wide, generator=generator)
        narrow = wide
    return found


def by_hand(weights: dict[str, Tensor], pictures: Tensor) -> list[Tensor]:
    found, x = [], pictures
    x = (x - torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)) / torch.tensor([0.458, 0.448, 0.450]).view(
        3, 1, 1
    )
    for place in CONVOLUTIONS:
        if place in POOLED_BEFORE:
            x = F.max_pool2d(x, 2)
        kernel, bias = (weights[f"features.{place}.{part}"] for part in ("weight", "bias"))
        x = F.conv2d(x, kernel, bias, padding=1).relu()
        if place in COMPARED_AFTER:
            found.append(x)
    return found


def test_the_features_are_those_of_vgg16_and_a_grey_picture_has_three_equal_channels(
    weights: dict[str, Tensor],
) -> None:
    network = VGG16(weights | {"classifier.0.weight": torch.zeros(1)})
    grey = torch.rand(1, 1, 16, 20, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        found = network(grey)
    torch.testing.assert_close(found, by_hand(weights, grey.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)
    assert [features.shape[1] for features in found] == [64, 128, 256, 512, 512]


def test_the_weights_of_the_channels_are_those_of_lpips() -> None:
    found = channel_weights()
    assert [len(weights) for weights in found] == [64, 128, 256, 512, 512]
    assert all(bool((weights >= 0).all()) for weights in found)
    assert not any(weights.requires_grad for weights in found)


def test_other_weights_are_an_error(weights: dict[str, Tensor]) -> None:
    missing = {name: tensor for name, tensor in weights.items() if name != "features.28.bias"}
    with pytest.raises(DataError, match=r"features\.28\.bias is \[0\], not \[512\]"):
        VGG16(missing)


def test_a_file_is_known_by_its_sha256_and_nothing_in_it_is_executed(tmp_path: Path) -> None:
    file = tmp_path / "vgg16.pth"
    torch.save({"features.0.weight": torch.zeros(2), "whole": Path("/")}, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(DataError, match=rf"sha256 {digest}, which is not that of vgg16-397923af\.pth"):
        lpips.lpips(file)
    with pytest.raises(DataError, match="loading could run code"):
        lpips.lpips(file, digest)
