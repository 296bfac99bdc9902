import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.fixtures import tiny_models
from trainer.errors import ExportError
from trainer.export.parity import (
    CODE_GAP,
    DRAW_GAP,
    FLIP_GAP,
    ParityCheck,
    check_halo,
    gap_of_others,
    with_draws,
)
from trainer.models.graph import Graph
from trainer.models.vae import VAE
from trainer.models.vqvae import VQVAE

IMAGES: NDArray[np.uint8] = tiny_models.images(10).permute(0, 2, 3, 1).contiguous().numpy()


@pytest.fixture
def model() -> VQVAE:
    """A model whose codes 8 to 15 are those of 0 to 7 again, so that each has a tie."""
    model = tiny_models.model().eval()
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
    check = ParityCheck(model, model.graphs())
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
    check = ParityCheck(model, model.graphs())
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
    check = ParityCheck(model, model.graphs())
    check.add(IMAGES, codes, decoded)
    with pytest.raises(
        ExportError, match=r"100\.000% of pixels are within 1 level, and 1 of 490 codes differ"
    ):
        check.verdict()


def test_the_codes_of_a_variant_may_differ_at_ties_alone(model: VQVAE) -> None:
    codes, decoded = outputs(model)
    check = ParityCheck(model, model.graphs())
    check.add(IMAGES, codes, decoded)
    tied, wrong = codes.copy(), codes.copy()
    tied[0, 0, :3] += 8
    wrong[3, 2, 1] = (wrong[3, 2, 1] + 1) % 8
    check.add_variant(IMAGES, tied, codes)
    assert check.verdict().code_flips == 0
    check.add_variant(IMAGES, wrong, codes)
    with pytest.raises(ExportError, match=r"0 of 490 codes differ, and those of a variant"):
        check.verdict()


def test_pixels_may_differ_by_one_level(model: VQVAE) -> None:
    codes, decoded = outputs(model)
    check = ParityCheck(model, model.graphs())
    check.add(IMAGES, codes, np.where(decoded < 255, decoded + 1, decoded - 1).astype(np.uint8))
    parity = check.verdict()
    assert (parity.within_one_level, parity.largest_difference) == (1, 1)


@pytest.mark.parametrize(("wrong", "allowed"), [(7, True), (8, False)])
def test_one_pixel_in_a_thousand_may_differ_by_more(model: VQVAE, wrong: int, allowed: bool) -> None:
    codes, decoded = outputs(model)
    pixels = decoded.copy().reshape(-1)
    assert pixels.size == 7840
    pixels[:wrong] ^= 128
    check = ParityCheck(model, model.graphs())
    check.add(IMAGES, codes, pixels.reshape(decoded.shape))
    if allowed:
        assert check.verdict().largest_difference == 128
    else:
        with pytest.raises(ExportError, match=r"99\.898% of pixels are within 1 level"):
            check.verdict()


def test_draws_that_are_at_a_tie_are_told(model: VQVAE) -> None:
    check = ParityCheck(model, model.graphs())
    check.add(IMAGES, *outputs(model))
    before = check.verdict()
    assert before.draw_gap is None
    for gap in (0.0, DRAW_GAP):
        parity = with_draws(before, gap)
        assert parity.draw_gap == gap
        assert parity.tolerance.startswith(before.tolerance)
        assert f"draws differ only within {DRAW_GAP:g} of their size, or of a tie" in parity.tolerance
        assert parity.model_copy(update={"draw_gap": None, "tolerance": before.tolerance}) == before


@pytest.mark.parametrize(
    ("gap", "shown"), [(2 * DRAW_GAP, "0.0002"), (0.3, "0.3"), (np.inf, "inf"), (np.nan, "nan")]
)
def test_draws_from_elsewhere_are_an_error(model: VQVAE, gap: float, shown: str) -> None:
    check = ParityCheck(model, model.graphs())
    check.add(IMAGES, *outputs(model))
    with pytest.raises(ExportError, match=rf"what a sampler drew is {shown} away .*; allowed is 0\.0001"):
        with_draws(check.verdict(), gap)


def test_the_largest_gap_of_the_draws_is_told(model: VQVAE) -> None:
    check = ParityCheck(model, model.graphs())
    check.add(IMAGES, *outputs(model))
    parity = check.verdict()
    for gaps in ((1e-5, 3e-5), (3e-5, 1e-5)):
        found = parity
        for gap in gaps:
            found = with_draws(found, gap)
        assert found.draw_gap == 3e-5


# Codes that are floats, of a VAE.


@pytest.fixture
def vae() -> VAE:
    """Of codes of which one is about 40, and the others are small."""
    made = tiny_models.vae().eval().requires_grad_(False)
    made.state_dict()["encoder.2.bias"][0] = 40.0
    return made


def float_outputs(vae: VAE) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    encode, decode = (graph.module for graph in vae.graphs()[:2])
    codes = encode(torch.from_numpy(IMAGES), torch.zeros(len(IMAGES), 3))
    return codes.numpy().copy(), decode(codes).numpy()


def test_equal_codes_that_are_floats_agree(vae: VAE) -> None:
    check = ParityCheck(vae, vae.graphs())
    check.add(IMAGES, *float_outputs(vae))
    parity = check.verdict()
    assert (parity.images, parity.codes, parity.code_flips, parity.flip_gap) == (10, 30, 0, 0)
    assert parity.within_one_level == 1
    assert "codes differ by at most 0.001 of their size, or of 1" in parity.tolerance


@pytest.mark.parametrize("dimension", [0, 1])
@pytest.mark.parametrize(("share", "allowed"), [(0.5, True), (2, False)])
def test_codes_that_are_floats_may_differ_by_a_little(
    vae: VAE, dimension: int, share: float, allowed: bool
) -> None:
    codes, _ = float_outputs(vae)
    assert codes[:, 0].min() > 30
    assert abs(codes[:, 1]).max() < 1
    # Of a large code by a share of itself, of a small one by a share of the prior's standard deviation.
    codes[7, dimension] += share * CODE_GAP * max(1, codes[7, dimension])
    decoded = vae.graphs()[1].module(torch.from_numpy(codes)).numpy()
    check = ParityCheck(vae, vae.graphs())
    check.add(IMAGES, codes, decoded)
    if allowed:
        parity = check.verdict()
        assert parity.flip_gap == pytest.approx(share * CODE_GAP, rel=0.01)
        # They are no flips.
        assert parity.code_flips == 0
    else:
        with pytest.raises(
            ExportError,
            match=r"100\.000% of pixels are within 1 level, and codes differ by up to 0\.002 of their size\.",
        ):
            check.verdict()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_codes_that_are_no_numbers_are_an_error(vae: VAE, value: float) -> None:
    codes, decoded = float_outputs(vae)
    codes[7, 1] = value
    decoded[7] = vae.graphs()[1].module(torch.from_numpy(codes[7:8])).numpy()[0]
    check = ParityCheck(vae, vae.graphs())
    check.add(IMAGES, codes, decoded)
    with pytest.raises(ExportError, match="codes differ by up to inf of their size"):
        check.verdict()


# What further graphs give.


def others(vae: VAE) -> list[Graph]:
    return [graph for graph in vae.graphs() if graph.operation not in ("encode", "decode")]


def test_further_graphs_that_give_the_same_have_no_gap(vae: VAE) -> None:
    assert gap_of_others(others(vae), tiny_models.run_in_torch) == 0
    assert gap_of_others([], tiny_models.run_in_torch) == 0


@pytest.mark.parametrize(
    ("value", "gap"), [(0.01, 0.01), (math.nan, math.inf), (math.inf, math.inf), (-math.inf, math.inf)]
)
@pytest.mark.parametrize("place", [0, 2])
def test_the_gap_of_further_graphs_is_that_of_any_of_them(
    vae: VAE, place: int, value: float, gap: float
) -> None:
    wrong = others(vae)[place]

    def tampered(graph: Graph, inputs: Mapping[str, Tensor]) -> Sequence[Tensor]:
        found = [tensor.clone() for tensor in tiny_models.run_in_torch(graph, inputs)]
        if graph.operation == wrong.operation:
            found[-1].view(-1)[-1] += value * found[-1].view(-1)[-1].abs().clamp(min=1)
        return found

    assert gap_of_others(others(vae), tampered) == pytest.approx(gap, rel=1e-3)


@pytest.mark.parametrize("name", ["encode", "decode"])
def test_a_halo_that_is_smaller_than_what_a_graph_depends_on_is_an_error(name: str) -> None:
    model = tiny_models.model()
    with torch.no_grad():
        # What is far away matters as it does not in a model that is new.
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 4)
        (graph,) = (graph for graph in model.graphs() if graph.operation == name)
        assert graph.tiling is not None
        halo, codes = graph.tiling.halo, model.codes_spec()
        check_halo(graph, halo, codes, tiny_models.run_in_torch)
        with pytest.raises(ExportError, match=f"depends on more than its halo of {halo - 1} cells"):
            check_halo(graph, halo - 1, codes, tiny_models.run_in_torch)
