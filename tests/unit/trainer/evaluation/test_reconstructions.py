import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from service.contract.manifest import CodesSpec, ImageSpec, Measures
from trainer.evaluation.exported_model import Reconstructed, psnr
from trainer.evaluation.reconstructions import (
    Reconstructions,
    mean_squared_errors,
    protocol_of,
    shortcomings,
)

GRID = CodesSpec(dtype="int32", shape=(2, 2), codebook_size=8, codebook_dim=1)
VECTOR = CodesSpec(dtype="float32", shape=(3,))


def flat(*levels: int, size: int = 4) -> Tensor:
    """Images of one level each, uint8 (N, size, size, 1)."""
    return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].repeat(1, size, size, 1)


def codes(*each: int) -> Tensor:
    return torch.tensor(each, dtype=torch.int32)[:, None, None].repeat(1, 2, 2)


def test_errors_are_those_of_pixels_in_zero_to_one() -> None:
    assert mean_squared_errors(flat(0, 255, 10), flat(255, 0, 10)).tolist() == [1, 1, 0]


def test_an_error_may_go_either_way() -> None:
    errors = mean_squared_errors(flat(10, 15), flat(15, 10))
    assert errors.tolist() == pytest.approx([(5 / 255) ** 2] * 2)


@given(st.floats(min_value=1e-6, max_value=1))
def test_psnr_is_in_decibels(error: float) -> None:
    assert float(psnr(error)) == pytest.approx(-10 * math.log10(error))


def test_the_psnr_of_equal_images_is_finite_and_that_of_no_number_is_none() -> None:
    assert psnr(torch.zeros(1)) == pytest.approx(88.13, abs=0.01)
    assert math.isnan(psnr(math.nan))


def test_the_levels_of_several_scales_have_their_own_perplexity() -> None:
    spec = CodesSpec(dtype="int32", shape=(5,), codebook_size=8, level_grids=(1, 2))
    found = Reconstructions(spec)
    given = torch.tensor([[0, 1, 2, 3, 4], [0, 4, 3, 2, 1]], dtype=torch.int32)
    found.add(Reconstructed(flat(0, 255), given, flat(0, 255)))
    values = found.values()
    assert (values["perplexity_1x1"], values["perplexity_2x2"]) == pytest.approx((1, 4))
    assert (values["perplexity"], values["usage"]) == pytest.approx((5, 5 / 8))


def test_figures_do_not_depend_on_the_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    images, others = torch.randint(256, (2, 10, 12, 12, 1), generator=generator).byte()
    drawn = torch.randint(8, (10, 2, 2), generator=generator).int()
    whole, parts = Reconstructions(GRID), Reconstructions(GRID)
    whole.add(Reconstructed(images, drawn, others))
    for part in (slice(0, 7), slice(7, 10)):
        parts.add(Reconstructed(images[part], drawn[part], others[part]))
    assert parts.values() == pytest.approx(whole.values())


def test_psnr_is_the_mean_over_the_images() -> None:
    figures = Reconstructions(GRID)
    figures.add(Reconstructed(flat(0, 0), codes(1, 1), flat(255, 51)))
    values = figures.values()
    assert values["mse"] == pytest.approx((1 + 0.04) / 2)
    assert values["psnr"] == pytest.approx((0 - 10 * math.log10(0.04)) / 2)


def test_the_use_of_the_codebook_is_that_of_the_whole_set() -> None:
    figures = Reconstructions(GRID)
    for code in (3, 5):
        figures.add(Reconstructed(flat(0), codes(code), flat(0)))
    values = figures.values()
    assert values["perplexity"] == pytest.approx(2)
    assert values["usage"] == 0.25
    assert "active_units" not in values


def test_similarity_needs_its_window() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (3, 16, 16, 1), generator=generator).byte()
    for others, low, high in ((images, 0.9999, 1.0001), (255 - images, -1.0, 0.0)):
        figures = Reconstructions(GRID)
        figures.add(Reconstructed(images, codes(1, 2, 3), others))
        assert low <= figures.values()["ssim"] <= high
    small = Reconstructions(GRID)
    small.add(Reconstructed(images[:, :10, :10], codes(1, 2, 3), images[:, :10, :10]))
    assert "ssim" not in small.values()


def test_similarity_at_five_resolutions_needs_176_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (2, 176, 180, 3), generator=generator).byte()
    for others, low, high in ((images, 0.9999, 1.0001), (images // 2, 0.3, 0.99)):
        figures = Reconstructions(GRID)
        figures.add(Reconstructed(images, codes(1, 2), others))
        assert low <= figures.values()["ms_ssim"] <= high
    small = Reconstructions(GRID)
    small.add(Reconstructed(images[:, :175], codes(1, 2), images[:, :175]))
    assert "ms_ssim" not in small.values()


def test_the_units_of_a_grid_are_its_channels() -> None:
    figures = Reconstructions(CodesSpec(dtype="float32", shape=(2, 2, 3)))
    # A channel that varies over the cells alone, one over the images alone, and one that does not.
    cells = torch.tensor([[-1.0, 1.0], [1.0, -1.0]]).expand(4, 2, 2)
    over_images = torch.tensor([-1.0, 1.0, -1.0, 1.0])[:, None, None].expand(4, 2, 2)
    grids = 1e4 + torch.stack([cells, over_images, torch.zeros(4, 2, 2)], dim=3)
    for part in grids.split(3):
        figures.add(Reconstructed(flat(*[0] * len(part)), part, flat(*[0] * len(part))))
    assert figures.values()["active_units"] == 2


def test_a_protocol_does_not_depend_on_the_batches_or_the_order_of_its_settings() -> None:
    images = torch.randint(256, (5, 12, 12, 1), generator=torch.Generator().manual_seed(0)).byte()
    spec = ImageSpec(channels=1, height=12, width=12, fit="crop")
    whole, parts = Reconstructions(GRID), Reconstructions(GRID)
    whole.add(Reconstructed(images, codes(*range(5)), images))
    for part in (slice(0, 2), slice(2, 5)):
        parts.add(Reconstructed(images[part], codes(*range(5))[part], 255 - images[part]))
    settings = whole.settings(spec)
    assert settings == parts.settings(spec)
    assert protocol_of(settings) == protocol_of(dict(reversed(settings.items())))
    other = whole.settings(spec.model_copy(update={"fit": "stretch"}))
    assert protocol_of(other) != protocol_of(settings)


def test_units_that_vary_are_active() -> None:
    figures = Reconstructions(VECTOR)
    # Variances 0, 0.0098 and 0.0102 about any mean.
    spread = torch.tensor([0.0, 0.0098, 0.0102]).sqrt()
    means = 5 + torch.tensor([[-1.0], [1.0]]).repeat(500, 1) * spread
    for part in means.split(300):
        figures.add(Reconstructed(flat(*[0] * len(part)), part, flat(*[0] * len(part))))
    values = figures.values()
    assert values["active_units"] == 1
    assert "usage" not in values


def test_the_mean_image_explains_nothing_and_the_images_themselves_everything() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (4000, 2, 2, 1), generator=generator).byte()
    mean = images.double().mean(dim=0).round().byte().expand_as(images)
    for others, explained in ((images, 1), (mean, 0), (255 - images, -3)):
        figures = Reconstructions(VECTOR)
        for part in zip(images.split(999), others.split(999), strict=True):
            figures.add(Reconstructed(part[0], torch.zeros(len(part[0]), 3), part[1]))
        assert figures.values()["explained_variance"] == pytest.approx(explained, abs=2e-2)


@pytest.mark.parametrize("images", [flat(7), flat(7, 7, 7)], ids=["one", "alike"])
def test_of_images_that_do_not_vary_nothing_is_explained(images: Tensor) -> None:
    figures = Reconstructions(GRID)
    figures.add(Reconstructed(images, codes(*range(len(images))), images))
    assert "explained_variance" not in figures.values()


def row(of: str = "reconstructions", images: int = 1000, **values: float) -> Measures:
    return Measures(of=of, dataset="mnist", split="test", images=images, values=values)


COMMITTED = row(mse=0.00124, perplexity=264.7, usage=1.0, bits=186.7, explained_variance=0.98)
ENOUGH = row("training", steps=14_040, prior_steps=9_360)
CODES = CodesSpec(dtype="int32", shape=(7, 7), codebook_size=512, codebook_dim=32)


@pytest.mark.parametrize("rows", [(), (COMMITTED,), (COMMITTED, ENOUGH), (row("likelihood", elbo=-90),)])
def test_a_good_model_has_no_shortcomings(rows: tuple[Measures, ...]) -> None:
    assert shortcomings(rows, CODES) is None


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row(explained_variance=0.49)], "poor: its reconstructions keep 49% of the variance of the test"),
        ([row(explained_variance=-0.99)], "poor: its reconstructions are no nearer to the test images than"),
        ([row(usage=0.05)], "poor: 5.0% of its codes are in use, and less than 10% is a collapse"),
        # One image of 49 cells can use 49 codes.
        ([row(images=1, usage=2 / 512)], "poor: 4.1% of its codes are in use"),
        ([row(perplexity=4.0, bits=98.0)], "poor: its prior needs 98 bits an image, where codes drawn each"),
        ([row("training", steps=8)], "unfinished: it was trained for 8 steps, and fewer than 1,400 are few"),
        ([row("training", steps=9_000, prior_steps=40)], "unfinished: its prior was trained for 40 steps"),
        ([row(usage=0.05), row("training", steps=8)], "is a collapse; it was trained for 8 steps"),
    ],
)
def test_what_is_poor_or_unfinished_is_said(rows: list[Measures], said: str) -> None:
    found = shortcomings(rows, CODES)
    assert found is not None
    assert found.startswith("This model is ")
    assert said in found


def test_few_codes_of_few_images_are_no_collapse() -> None:
    assert shortcomings([row(images=1, usage=30 / 512)], CODES) is None
