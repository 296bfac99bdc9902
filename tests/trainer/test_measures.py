import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.measures import Evaluation, mean_squared_errors, peak_signal_to_noise_ratios


def flat(*levels: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Images of one level each, uint8 (N, 2, 3, 1)."""
    return np.stack([np.full((2, 3, 1), level, dtype=np.uint8) for level in levels])


def test_errors_are_those_of_pixels_in_zero_to_one() -> None:
    errors = mean_squared_errors(flat(0, 255, 10), flat(255, 0, 10))
    assert errors.tolist() == [1, 1, 0]


def test_an_error_may_go_either_way() -> None:
    errors = mean_squared_errors(flat(10, 15), flat(15, 10))
    assert errors.tolist() == pytest.approx([(5 / 255) ** 2] * 2)


@given(st.floats(min_value=1e-6, max_value=1))
def test_psnr_is_in_decibels(error: float) -> None:
    assert peak_signal_to_noise_ratios(np.array([error]))[0] == pytest.approx(-10 * math.log10(error))


def test_the_psnr_of_equal_images_is_finite() -> None:
    assert peak_signal_to_noise_ratios(np.zeros(1))[0] == pytest.approx(88.13, abs=0.01)


def test_figures_do_not_depend_on_the_batches() -> None:
    draws = np.random.default_rng(0)
    images, others = draws.integers(0, 256, (2, 10, 4, 4, 1), dtype=np.uint8)
    codes = draws.integers(0, 8, (10, 2, 2), dtype=np.int32)
    whole, parts = Evaluation(8), Evaluation(8)
    whole.add(images, others, codes)
    for part in (slice(0, 7), slice(7, 10)):
        parts.add(images[part], others[part], codes[part])
    assert parts.values() == pytest.approx(whole.values())


def test_psnr_is_the_mean_over_the_images() -> None:
    evaluation = Evaluation(None)
    evaluation.add(flat(0, 0), flat(255, 51), np.zeros((2, 1)))
    assert evaluation.values() == pytest.approx(
        {"mse": (1 + 0.04) / 2, "psnr": (0 - 10 * math.log10(0.04)) / 2}
    )


def test_the_use_of_the_codebook_is_that_of_the_whole_set() -> None:
    evaluation = Evaluation(8)
    for code in (3, 5):
        evaluation.add(flat(0), flat(0), np.full((1, 2, 2), code, dtype=np.int32))
    values = evaluation.values()
    assert values["perplexity"] == pytest.approx(2)
    assert values["usage"] == 0.25
