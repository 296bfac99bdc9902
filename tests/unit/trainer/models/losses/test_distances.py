import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from trainer.models.losses.distances import EXPONENTS, frequency_loss, ms_ssim_loss, resolutions


def pictures(height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 3, height, width, generator=generator) * 2 - 1


def by_torchmetrics(ours: Tensor, theirs: Tensor, exponents: tuple[float, ...]) -> Tensor:
    """The product of eq. 7, from SSIM and its parts at each resolution, without mirrored borders."""
    product = torch.ones(len(ours))
    ours, theirs = (ours + 1) / 2, (theirs + 1) / 2
    for resolution, exponent in enumerate(exponents, start=1):
        if resolution == len(exponents):
            _, whole = structural_similarity_index_measure(
                ours, theirs, data_range=1.0, reduction="none", return_full_image=True
            )
            similarity = whole[..., 5:-5, 5:-5].mean(dim=(1, 2, 3))
        else:
            _, similarity = structural_similarity_index_measure(
                ours, theirs, data_range=1.0, reduction="none", return_contrast_sensitivity=True
            )
        product = product * similarity ** (exponent / sum(exponents))
        ours, theirs = (torch.nn.functional.avg_pool2d(each, 2) for each in (ours, theirs))
    return 1 - product.mean()


@pytest.mark.parametrize(("height", "width", "levels"), [(12, 15, 1), (22, 31, 2), (60, 45, 3)])
def test_ms_ssim_is_that_of_torchmetrics_at_as_many_resolutions_as_fit(
    height: int, width: int, levels: int
) -> None:
    theirs = pictures(height, width)
    ours = (theirs + 0.3 * pictures(height, width, seed=1)).clamp(-1, 1)
    expected = by_torchmetrics(ours, theirs, EXPONENTS[:levels])
    torch.testing.assert_close(ms_ssim_loss(ours, theirs), expected, rtol=1e-4, atol=1e-5)


def test_the_resolutions_are_those_with_room_for_the_window() -> None:
    sides = (10, 11, 21, 22, 43, 44, 64, 87, 88, 128, 175, 176, 4096)
    assert [resolutions(side) for side in sides] == [0, 1, 1, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5]
    with pytest.raises(ValueError, match="10 pixels are smaller than the window of 11"):
        ms_ssim_loss(pictures(10, 40), pictures(10, 40))


def test_where_structure_is_inverted_the_gradient_is_finite() -> None:
    theirs = pictures(24, 24)
    ours = (-theirs).requires_grad_()
    loss = ms_ssim_loss(ours, theirs)
    assert float(loss.detach()) == 1
    loss.backward()
    assert ours.grad is not None
    assert ours.grad.isfinite().all()
    assert float(ms_ssim_loss(theirs, theirs)) == pytest.approx(0, abs=1e-6)


def test_under_autocast_both_are_computed_in_float32() -> None:
    theirs = pictures(24, 24)
    ours = theirs + 0.01 * pictures(24, 24, seed=1)
    expected = [loss(ours, theirs) for loss in (ms_ssim_loss, frequency_loss)]
    with torch.autocast("cpu", torch.bfloat16):
        found = [loss(ours, theirs) for loss in (ms_ssim_loss, frequency_loss)]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_an_error_of_one_frequency_counts_as_its_squares() -> None:
    theirs = pictures(16, 16)
    wave = torch.cos(2 * math.pi * 3 * torch.arange(16) / 16)
    ours = theirs + 0.2 * wave
    torch.testing.assert_close(frequency_loss(ours, theirs), ((ours - theirs) / 2).square().mean())


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(1e-3, 2), seed=st.integers(0, 100))
def test_the_frequency_loss_grows_as_squares_and_is_at_most_these(scale: float, seed: int) -> None:
    theirs, error = pictures(6, 8), pictures(6, 8, seed=seed + 1)
    found = frequency_loss(theirs + scale * error, theirs)
    torch.testing.assert_close(found, scale**2 * frequency_loss(theirs + error, theirs), rtol=1e-2, atol=1e-7)
    assert float(found) <= float((scale * error / 2).square().mean()) * 1.001


def test_without_an_error_the_frequency_loss_is_0_and_so_is_its_gradient() -> None:
    ours = pictures(8, 8).requires_grad_()
    loss = frequency_loss(ours, pictures(8, 8))
    loss.backward()
    assert float(loss.detach()) == 0
    assert ours.grad is not None
    assert not ours.grad.any()
