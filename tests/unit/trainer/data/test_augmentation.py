import math

import pytest
import torch
from torch import Tensor

from tests.fixtures import tiny_models
from trainer.data.augmentation import cropped, flipped, rotated


def test_about_half_of_the_images_are_mirrored() -> None:
    images = tiny_models.images(64, channels=3, height=6, width=8)
    found = flipped(images)
    kept = (found == images).flatten(1).all(dim=1)
    mirrored = (found == images.flip(3)).flatten(1).all(dim=1)
    assert (kept ^ mirrored).all()
    assert 16 < kept.sum() < 48
    assert not torch.equal(flipped(images), found)


@pytest.fixture
def to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image is turned as far as it may be, in the positive direction."""
    monkeypatch.setattr(torch, "rand", lambda count, device, generator: torch.ones(count, device=device))


@pytest.mark.parametrize("background", [0, 77, 255])
def test_a_turn_of_no_degrees_changes_nothing(background: int) -> None:
    images = tiny_models.images(4, channels=3, height=7, width=10)
    assert torch.equal(rotated(images, 0.0, background), images)


@pytest.mark.usefixtures("to_the_end")
@pytest.mark.parametrize("quarters", [1, 2])
def test_a_square_is_turned_by_quarters(quarters: int) -> None:
    images = tiny_models.images(4, channels=3, height=8, width=8)
    # Clockwise; torch's own turn is the other way.
    assert torch.equal(rotated(images, 90.0 * quarters, 0), images.rot90(-quarters, (2, 3)))


@pytest.mark.usefixtures("to_the_end")
@pytest.mark.parametrize("background", [0, 77, 255])
def test_what_is_longer_than_wide_is_turned_and_not_squeezed(background: int) -> None:
    """A quarter of a turn leaves the square in the middle, and what comes in at the sides is background."""
    images = tiny_models.images(4, channels=3, height=6, width=10)
    found = rotated(images, 90.0, background)
    assert torch.equal(found[:, :, :, 2:8], images[:, :, :, 2:8].rot90(-1, (2, 3)))
    assert (found[:, :, :, :2] == background).all()
    assert (found[:, :, :, 8:] == background).all()
    assert torch.equal(rotated(images, 180.0, background), images.flip(2, 3))


def centre_of_mass(image: Tensor) -> tuple[float, float]:
    """Of a picture ``(H, W)`` on black: right of its middle, and below it."""
    height, width = image.shape
    mass = image.float() / image.sum()
    right = (mass.sum(dim=0) * (torch.arange(width) - (width - 1) / 2)).sum()
    below = (mass.sum(dim=1) * (torch.arange(height) - (height - 1) / 2)).sum()
    return float(right), float(below)


@pytest.mark.usefixtures("to_the_end")
@pytest.mark.parametrize("degrees", [10.0, 30.0, 135.0])
def test_a_spot_goes_round_the_centre_by_the_angle(degrees: float) -> None:
    image = torch.zeros(1, 1, 31, 41, dtype=torch.uint8)
    # Right of the middle by 9.5.
    image[0, 0, 14:17, 29:31] = 200
    right, below = centre_of_mass(rotated(image, degrees, 0)[0, 0])
    # Between pixels the levels are rounded, by a hundredth of a pixel or two in all.
    angle = math.radians(degrees)
    assert (right, below) == pytest.approx((9.5 * math.cos(angle), 9.5 * math.sin(angle)), abs=0.05)


def test_each_image_is_turned_by_an_angle_of_its_own_and_either_way() -> None:
    torch.manual_seed(0)
    image = torch.zeros(200, 1, 31, 31, dtype=torch.uint8)
    image[:, :, 14:17, 24:26] = 200
    angles = [math.degrees(math.atan2(*centre_of_mass(each[0])[::-1])) for each in rotated(image, 20.0, 0)]
    assert -20.5 < min(angles) < -15
    assert 15 < max(angles) < 20.5
    # The mean of 200 even draws from -20 to 20 has a standard error of 0.8.
    assert abs(sum(angles) / 200) < 4
    assert len(set(angles)) > 100


@pytest.mark.parametrize("background", [0, 255])
def test_background_stays_background(background: int) -> None:
    """At the edges too: what comes in is of the same level, not a mixture with another."""
    images = torch.full((8, 3, 9, 12), background, dtype=torch.uint8)
    assert torch.equal(rotated(images, 180.0, background), images)


def test_images_stay_levels_of_their_shape() -> None:
    images = tiny_models.images(16, channels=3, height=9, width=12)
    found = rotated(images, 45.0, 255)
    assert (found.dtype, found.shape) == (torch.uint8, images.shape)
    assert not torch.equal(found, images)


def test_a_crop_is_a_square_of_the_image_and_avoids_what_is_flat() -> None:
    images = tiny_models.images(32, channels=3, height=12, width=16)
    images[:, :, :, :6] = 255
    found = cropped(images, 6)
    assert found.shape == (32, 3, 6, 6)
    assert cropped(images, 12) is images
    squares = images.unfold(2, 6, 1).unfold(3, 6, 1).permute(0, 2, 3, 1, 4, 5)
    assert (squares == found[:, None, None]).flatten(3).all(dim=3).flatten(1).any(dim=1).all()
    flat = (found == 255).flatten(1).all(dim=1)
    # One in eleven squares is flat, and it is taken only if both are.
    assert flat.sum() <= 3
