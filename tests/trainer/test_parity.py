import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.trainer import tiny
from trainer.errors import ExportError
from trainer.kinds.vqvae import VQVAE
from trainer.parity import DRAW_GAP, FLIP_GAP, ParityCheck, with_draws

IMAGES: NDArray[np.uint8] = tiny.images(10).permute(0, 2, 3, 1).contiguous().numpy()


@pytest.fixture
def model() -> VQVAE:
    """A model whose codes 8 to 15 are those of 0 to 7 again, so that each has a tie."""
    model = tiny.model().eval()
    with torch.no_grad():
        model.quantizer.codebook[8:] = model.quantizer.codebook[:8]
    return model


def outputs(model: VQVAE) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """What a perfect runtime would make of the images."""
    encode, decode = (graph.module.eval() for graph in model.graphs())
    with torch.no_grad():
        codes = encode(torch.from_numpy(IMAGES))
        return codes.numpy(), decode(codes).numpy()


def test_equal_results_agree(model: VQVAE) -> None:
    check = ParityCheck(model)
    codes, decoded = outputs(model)
    for part in (slice(0, 6), slice(6, 10)):
        check.add(IMAGES[part], codes[part], decoded[part])
    parity = check.verdict()
    assert (parity.images, parity.codes, parity.code_flips) == (10, 10 * 7 * 7, 0)
    assert (parity.within_one_level, parity.largest_difference, parity.flip_gap) == (1, 0, 0)


def test_a_flip_between_two_codes_that_tie_is_counted_and_allowed(model: VQVAE) -> None:
    codes, decoded = outputs(model)
    codes = codes.copy()
    codes[0, 0, :3] += 8
    check = ParityCheck(model)
    check.add(IMAGES, codes, decoded)
    parity = check.verdict()
    assert parity.code_flips == 3
    assert parity.flip_gap <= FLIP_GAP


def test_a_flip_without_a_tie_is_an_error(model: VQVAE) -> None:
    codes, _ = outputs(model)
    codes = codes.copy()
    codes[3, 2, 1] = (codes[3, 2, 1] + 1) % 8
    with torch.no_grad():
        decoded = model.graphs()[1].module.eval()(torch.from_numpy(codes)).numpy()
    check = ParityCheck(model)
    check.add(IMAGES, codes, decoded)
    with pytest.raises(
        ExportError, match=r"100\.000% of pixels are within 1 level, and 1 of 490 codes differ"
    ):
        check.verdict()


def test_pixels_may_differ_by_one_level(model: VQVAE) -> None:
    codes, decoded = outputs(model)
    check = ParityCheck(model)
    check.add(IMAGES, codes, np.where(decoded < 255, decoded + 1, decoded - 1).astype(np.uint8))
    parity = check.verdict()
    assert (parity.within_one_level, parity.largest_difference) == (1, 1)


@pytest.mark.parametrize(("wrong", "allowed"), [(7, True), (8, False)])
def test_one_pixel_in_a_thousand_may_differ_by_more(model: VQVAE, wrong: int, allowed: bool) -> None:
    codes, decoded = outputs(model)
    pixels = decoded.copy().reshape(-1)
    assert pixels.size == 7840
    pixels[:wrong] ^= 128
    check = ParityCheck(model)
    check.add(IMAGES, codes, pixels.reshape(decoded.shape))
    if allowed:
        assert check.verdict().largest_difference == 128
    else:
        with pytest.raises(ExportError, match=r"99\.898% of pixels are within 1 level"):
            check.verdict()


def test_draws_that_are_at_a_tie_are_told(model: VQVAE) -> None:
    check = ParityCheck(model)
    check.add(IMAGES, *outputs(model))
    before = check.verdict()
    assert before.draw_gap is None
    for gap in (0.0, DRAW_GAP):
        parity = with_draws(before, gap)
        assert parity.draw_gap == gap
        assert parity.tolerance.startswith(before.tolerance)
        assert f"draws differ only where the noise is within {DRAW_GAP:g} of a tie" in parity.tolerance
        assert parity.model_copy(update={"draw_gap": None, "tolerance": before.tolerance}) == before


@pytest.mark.parametrize(
    ("gap", "told"), [(2 * DRAW_GAP, "0.0002"), (0.3, "0.3"), (np.inf, "inf"), (np.nan, "nan")]
)
def test_draws_from_elsewhere_are_an_error(model: VQVAE, gap: float, told: str) -> None:
    check = ParityCheck(model)
    check.add(IMAGES, *outputs(model))
    with pytest.raises(ExportError, match=rf"a code was drawn {told} away .*; allowed is 0\.0001"):
        with_draws(check.verdict(), gap)
