import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from tests.unit.trainer.models import drawn, ratios
from tests.unit.trainer.models.exported import Exported
from trainer.export.parity import DRAW_GAP
from trainer.models.gaussian.energy import Ratio, Valued
from trainer.models.samplers.resampling import Resampling

LARGEST_NOISE = 1 - 2**-24


class Identity(Ratio):
    """Of one-dimensional codes, themselves."""

    def forward(self, codes: Tensor) -> Tensor:
        return codes[:, 0]

    def with_gradient(self, codes: Tensor) -> Valued:
        return Valued(codes[:, 0], torch.ones_like(codes))


def inputs(count: int, proposals: int, dim: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, proposals, dim, generator=generator), torch.rand(count, generator=generator)


@torch.no_grad()
def draw(ratio: Ratio, proposals: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    codes, effective = Resampling(ratio)(proposals, uniform)
    return codes, effective


def chosen(logits: Tensor, noise: float) -> int:
    """Which of proposals with these log ratios, all different, is taken."""
    (code,) = draw(Identity(), logits[None, :, None], torch.tensor([noise]))[0]
    (place,) = (logits == code).nonzero()[:, 0].tolist()
    return int(place)


@pytest.mark.parametrize("ratio", [ratios.normal(), ratios.mixture()], ids=["normal", "mixture"])
def test_it_samples_a_density_that_the_proposals_cover(ratio: ratios.Normal | ratios.Mixture) -> None:
    """Up to chance, and to the bias of finite proposals: of the order of one over the effective ones."""
    count = 10_000
    codes, effective = draw(ratio, *inputs(count, 128))
    of_mean, of_covariance = drawn.away(codes, ratio.mean, ratio.covariance)
    mean, covariance = drawn.chance(count)
    bias = 1 / float(effective.mean())
    assert bias < 0.04
    assert of_mean < mean + bias
    assert of_covariance < covariance + bias
    # Two proposals are too few, and that is seen.
    few = drawn.away(draw(ratio, *inputs(count, 2))[0], ratio.mean, ratio.covariance)
    assert few[1] > 5 * (covariance + bias)


def reference(
    network: NDArray[np.float64], uniform: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Which proposal is taken, and the effective number of them: from log ratios, ``(n, M)``."""
    weights = np.exp(network - network.max(axis=1, keepdims=True))
    shares = weights / weights.sum(axis=1, keepdims=True)
    taken = [np.searchsorted(np.cumsum(row), noise) for row, noise in zip(shares, uniform, strict=True)]
    return np.array(taken), 1 / (shares**2).sum(axis=1)


def test_the_proposal_is_that_of_a_search_in_the_cumulative_shares() -> None:
    ratio, (proposals, uniform) = ratios.classifier(), inputs(500, 20, dim=3)
    codes, effective = draw(ratio, proposals, uniform)
    logits = ratio(proposals.flatten(0, 1)).view(500, 20)
    taken, expected = reference(logits.double().numpy(), uniform.double().numpy())
    alike = (codes == proposals[torch.arange(500), torch.from_numpy(taken)]).all(dim=1)
    # A noise within a rounding error of where two proposals meet may take the other one: of 500, hardly one.
    assert alike.float().mean() > 0.99
    np.testing.assert_allclose(effective, expected, rtol=1e-4)
    assert len(set(taken.tolist())) == 20


@pytest.mark.parametrize("proposals", [1, 2, 100, 4096])
def test_proposals_of_one_weight_are_all_effective(proposals: int) -> None:
    codes, effective = draw(
        Identity(), torch.full((3, proposals, 1), 7.0), torch.tensor([0.0, 0.5, LARGEST_NOISE])
    )
    torch.testing.assert_close(effective, torch.full((3,), float(proposals)), rtol=1e-4, atol=0)
    assert codes.shape == (3, 1)


@pytest.mark.parametrize("place", [0, 5, 9])
@pytest.mark.parametrize("noise", [0.0, 0.5, LARGEST_NOISE])
def test_one_proposal_that_dominates_is_taken_whatever_the_noise(place: int, noise: float) -> None:
    logits = torch.arange(10.0)
    logits[place] = 1000.0
    codes, effective = draw(Identity(), logits[None, :, None], torch.tensor([noise]))
    assert codes.tolist() == [[1000.0]]
    assert effective.tolist() == [1.0]


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(
    logits=st.lists(st.integers(-1600, 1600), min_size=1, max_size=40, unique=True).map(
        lambda some: torch.tensor(some) / 8
    ),
    noise=st.sampled_from([0.0, 2**-24, 0.5, 1 - 2**-12, 1 - 2**-20, LARGEST_NOISE]),
)
def test_no_noise_takes_a_proposal_of_no_weight(logits: Tensor, noise: float) -> None:
    assert logits.softmax(dim=0)[chosen(logits, noise)] > 0


@pytest.mark.parametrize("seed", range(5))
def test_nor_does_it_among_thousands_whose_sum_is_rounded(seed: int) -> None:
    """Summed one by one, thousands of shares come to a little less than 1."""
    logits = inputs(1, 4096, dim=1, seed=seed)[0][0, :, 0]
    logits[-1000:] -= 1000
    (code,) = draw(Identity(), logits[None, :, None], torch.tensor([LARGEST_NOISE]))[0]
    assert code > -900


def test_the_extremes_of_the_noise_take_the_first_and_the_last() -> None:
    logits = torch.arange(10.0) / 10
    assert (chosen(logits, 0.0), chosen(logits, LARGEST_NOISE)) == (0, 9)


# From here on: how far codes are from those that should be.


def gap(ratio: Ratio, given: tuple[Tensor, Tensor], codes: Tensor) -> float:
    with torch.no_grad():
        return Resampling(ratio).gap(given, codes)


def test_there_is_no_gap_for_its_own_codes() -> None:
    ratio, given = ratios.classifier(), inputs(50, 20, dim=3)
    assert gap(ratio, given, draw(ratio, *given)[0]) == 0


def test_the_gap_is_the_distance_from_the_noise_to_the_interval_of_the_proposal() -> None:
    logits, noise = torch.tensor([0.1, 1.0, -0.5, 0.3]), 0.6
    sums = logits.softmax(dim=0).cumsum(dim=0).tolist()
    for place, logit in enumerate(logits):
        below, above = [0, *sums][place], sums[place]
        found = gap(Identity(), (logits[None, :, None], torch.tensor([noise])), logit.view(1, 1))
        assert found == pytest.approx(max(0, below - noise, noise - above), abs=1e-5)


def test_a_code_that_was_not_proposed_is_infinitely_far() -> None:
    ratio, given = ratios.classifier(), inputs(50, 20, dim=3)
    codes = draw(ratio, *given)[0].clone()
    codes[17, 2] += 1e-3
    assert gap(ratio, given, codes) == math.inf


# From here on: the graph in ONNX Runtime against torch.


def taken(exported: Exported, given: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    return exported.outputs("sample/sir", dict(zip(("draws", "uniform"), given, strict=True)))


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (2, 3), (50, 4096)], ids=str)
def test_the_graph_takes_what_torch_does(exported: Exported, size: tuple[int, int]) -> None:
    given = inputs(*size, dim=3)
    found = taken(exported, given)
    codes, effective = draw(exported.network, *given)
    torch.testing.assert_close(found["effective_proposals"], effective, rtol=1e-4, atol=0)
    # Another one only where the noise is this close to where two proposals meet.
    assert gap(exported.network, given, found["codes"]) < DRAW_GAP
    assert (found["codes"] == codes).all(dim=1).float().mean() >= 0.9


@pytest.mark.slow
def test_the_graph_takes_some_proposal_whatever_the_noise(exported: Exported) -> None:
    """Also where its sums, of thousands, are rounded below the noise."""
    proposals, _ = inputs(50, 4096, dim=3)
    for noise in (0.0, LARGEST_NOISE):
        given = proposals, torch.full((50,), noise)
        assert gap(exported.network, given, taken(exported, given)["codes"]) < DRAW_GAP


@pytest.mark.slow
def test_a_row_of_the_graph_is_the_same_alone_and_in_a_batch(exported: Exported) -> None:
    proposals, uniform = inputs(33, 64, dim=3)
    together = taken(exported, (proposals, uniform))
    for item in (0, 15, 32):
        row = slice(item, item + 1)
        for name, tensor in taken(exported, (proposals[row], uniform[row])).items():
            assert torch.equal(tensor, together[name][row]), name
