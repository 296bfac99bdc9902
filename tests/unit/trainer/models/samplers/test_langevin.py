from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.trainer.models import drawn, ratios
from tests.unit.trainer.models.drawn import STANDARD_ERRORS
from tests.unit.trainer.models.exported import Exported
from trainer.export.parity import DRAW_GAP
from trainer.models.gaussian.energy import Ratio, energy
from trainer.models.samplers.langevin import Langevin, Metropolis

# Both sum float32 products, in another order.
TOLERANCE = 1e-5
COUNT = 10_000
# With the covariance of ratios.normal: the stationary variance across is 2.5 times the target's.
LARGE_STEP = 0.15


def inputs(
    kind: type[Langevin | Metropolis],
    count: int,
    steps: int,
    *,
    dim: int = 2,
    step_size: float = 0.1,
    every: int = 0,
    **changes: Tensor,
) -> dict[str, Tensor]:
    """The inputs of a chain by name, in their order."""
    made = drawn.noise(count, steps, dim)
    if kind is Langevin:
        del made["uniform"]
    return made | {"step_size": torch.tensor(step_size), "every": torch.tensor(every)} | changes


@torch.no_grad()
def run(kind: type[Langevin | Metropolis], ratio: Ratio, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
    return kind(ratio)(*given.values())


def stationary(covariance: Tensor, step_size: float) -> Tensor:
    """The covariance S to which unadjusted Langevin comes for a normal density of precision A.

    A step is z <- B z + sqrt(epsilon) noise, where B = 1 - epsilon / 2 A, so S = B S B + epsilon, of which
    S = 1 / (A - epsilon / 4 A^2) is the solution.
    """
    precision = torch.linalg.inv(covariance)
    return torch.linalg.inv(precision - step_size / 4 * precision @ precision)


# From here on: the densities that they sample, known in closed form.


@pytest.mark.parametrize(("step_size", "steps"), [(0.02, 500), (LARGE_STEP, 100)])
def test_langevin_samples_a_normal_density_with_its_known_bias(step_size: float, steps: int) -> None:
    """After so many steps a start is forgotten: what is left of it in the wide direction is below 1 %."""
    ratio = ratios.normal()
    codes = run(Langevin, ratio, inputs(Langevin, COUNT, steps, step_size=step_size))[0]
    of_mean, of_covariance = drawn.away(codes, ratio.mean, stationary(ratio.covariance, step_size))
    mean, covariance = drawn.chance(COUNT)
    assert (1 - step_size / 2) ** steps < 0.01
    assert of_mean < mean + 0.01
    assert of_covariance < covariance + 0.01


def test_metropolis_samples_a_normal_density_without_a_bias() -> None:
    """Where Langevin, with the same step, misses it by far more than chance."""
    ratio = ratios.normal()
    corrected, plain = (
        drawn.away(
            run(kind, ratio, inputs(kind, COUNT, 150, step_size=LARGE_STEP))[0], ratio.mean, ratio.covariance
        )
        for kind in (Metropolis, Langevin)
    )
    mean, covariance = drawn.chance(COUNT)
    assert corrected[0] < mean
    assert corrected[1] < covariance
    assert plain[1] > 10 * covariance


def share_on_the_right(codes: Tensor) -> float:
    return float((codes[:, 0] > 0).float().mean())


def expected_on_the_right() -> float:
    ratio = ratios.mixture()
    tails = torch.distributions.Normal(ratio.means[:, 0], ratio.width).cdf(torch.tensor(0.0))
    return float((ratio.shares * (1 - tails)).sum())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "step_size", "steps", "bias"),
    # Metropolis has none. That of Langevin is epsilon / (4 width^2) where hills do not meet, as above.
    [(Metropolis, LARGE_STEP, 150, 0.0), (Langevin, 0.02, 600, 0.02 / (4 * 0.5**2))],
)
def test_chains_sample_a_density_with_two_hills(
    kind: type[Langevin | Metropolis], step_size: float, steps: int, bias: float
) -> None:
    ratio = ratios.mixture()
    codes = run(kind, ratio, inputs(kind, COUNT, steps, step_size=step_size))[0]
    of_mean, of_covariance = drawn.away(codes, ratio.mean, ratio.covariance)
    mean, covariance = drawn.chance(COUNT)
    assert of_mean < mean + bias
    assert of_covariance < covariance + bias
    # A share of n draws has a standard error of at most 1 / (2 sqrt(n)).
    assert abs(share_on_the_right(codes) - expected_on_the_right()) < STANDARD_ERRORS / 2 / COUNT**0.5 + bias


# From here on: what a chain answers.

KINDS = [Langevin, Metropolis]


@pytest.mark.parametrize("kind", KINDS)
def test_one_step_is_down_the_energy_and_noise(kind: type[Langevin | Metropolis]) -> None:
    ratio = ratios.classifier()
    given = inputs(kind, 5, 1, dim=3, step_size=0.3)
    if kind is Metropolis:
        # Below any chance, so each proposal is taken.
        given["uniform"] = torch.zeros(5, 1)
    start = given["start"].clone().requires_grad_()
    (gradient,) = torch.autograd.grad((start.square().sum(dim=1) / 2 - ratio(start)).sum(), start)
    expected = start - 0.15 * gradient + 0.3**0.5 * given["noise"][:, 0]
    torch.testing.assert_close(run(kind, ratio, given)[0], expected.detach(), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("every", [1, 2, 3, 7, 8, 2000])
def test_every_so_many_states_are_answered(kind: type[Langevin | Metropolis], every: int) -> None:
    ratio = ratios.classifier()
    # The state after k steps is where a chain of k steps ends.
    ends = []
    for steps in range(1, 8):
        given = inputs(kind, 4, 7, dim=3)
        for name in {"noise", "uniform"} & given.keys():
            given[name] = given[name][:, :steps]
        ends.append(run(kind, ratio, given)[0])
    codes, states = run(kind, ratio, inputs(kind, 4, 7, dim=3, every=every))[:2]
    assert torch.equal(codes, ends[-1])
    assert states.shape == (4, 7 // every, 3)
    for place, state in enumerate(states.unbind(dim=1), start=1):
        assert torch.equal(state, ends[place * every - 1])


@pytest.mark.parametrize("kind", KINDS)
def test_no_states_are_answered_unless_asked_for(kind: type[Langevin | Metropolis]) -> None:
    assert run(kind, ratios.classifier(), inputs(kind, 4, 7, dim=3, every=0))[1].shape == (4, 0, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_energy_is_that_of_the_codes(kind: type[Langevin | Metropolis]) -> None:
    ratio = ratios.classifier()
    codes, _, energies, *_ = run(kind, ratio, inputs(kind, 6, 9, dim=3))
    torch.testing.assert_close(energies, energy(ratio, codes).value)


def test_the_acceptance_rate_is_the_share_of_proposals_that_were_taken() -> None:
    given = inputs(Metropolis, 40, 20, dim=3, step_size=0.8, every=1)
    _, states, _, rate = run(Metropolis, ratios.classifier(), given)
    before = torch.cat([given["start"][:, None], states[:, :-1]], dim=1)
    moved = (states != before).any(dim=2)
    torch.testing.assert_close(rate, moved.float().mean(dim=1))
    assert 0 <= rate.min() < rate.max() <= 1


def log_normal(x: Tensor, mean: Tensor, variance: float) -> Tensor:
    return torch.distributions.Normal(mean, variance**0.5).log_prob(x).sum(dim=1)


def test_a_proposal_is_taken_by_the_chance_of_metropolis_and_hastings() -> None:
    """By the densities themselves, in float64: those of both codes, and of the ways there and back."""
    ratio, count, step_size = ratios.normal(), 2000, 0.2
    given = inputs(Metropolis, count, 1, step_size=step_size)
    codes = run(Metropolis, ratio, given)[0]
    start = given["start"].double()
    precision = torch.linalg.inv(ratio.covariance.double())
    target = torch.distributions.MultivariateNormal(ratio.mean.double(), ratio.covariance.double())

    def drifted(z: Tensor) -> Tensor:
        return z - step_size / 2 * (z - ratio.mean.double()) @ precision

    proposal = drifted(start) + step_size**0.5 * given["noise"][:, 0].double()
    forth = log_normal(proposal, drifted(start), step_size)
    back = log_normal(start, drifted(proposal), step_size)
    chance = (target.log_prob(proposal) - target.log_prob(start) + back - forth).exp()
    taken = given["uniform"][:, 0].double() < chance
    assert 0.1 < taken.float().mean() < 0.9
    expected = torch.where(taken[:, None], proposal, start)
    apart = (codes - expected).abs().amax(dim=1) > TOLERANCE * 10
    # In float32 the chance is another only in its last digits.
    assert ((given["uniform"][:, 0] - chance).abs()[apart] < 1e-4).all()
    assert apart.float().mean() < 0.01


def test_a_step_too_large_is_never_taken_and_does_no_harm() -> None:
    given = inputs(Metropolis, 5, 3, step_size=1e30)
    codes, _, energies, rate = run(Metropolis, ratios.normal(), given)
    assert torch.equal(codes, given["start"])
    assert energies.isfinite().all()
    assert (rate == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_chain_is_the_same_alone_and_among_others(kind: type[Langevin | Metropolis]) -> None:
    ratio = ratios.classifier()
    given = inputs(kind, 5, 6, dim=3, every=1)
    together = run(kind, ratio, given)[1]
    for item in range(5):
        torch.testing.assert_close(run(kind, ratio, rows(given, item))[1], together[item : item + 1])


def rows(given: dict[str, Tensor], item: int) -> dict[str, Tensor]:
    """The same inputs for one chain."""
    return {name: tensor[item : item + 1] if tensor.dim() else tensor for name, tensor in given.items()}


# From here on: how far states are from those that should be.


def gap(kind: type[Langevin | Metropolis], ratio: Ratio, given: dict[str, Tensor], states: Tensor) -> float:
    with torch.no_grad():
        return kind(ratio).gap(tuple(given.values()), states)


@pytest.mark.parametrize("kind", KINDS)
def test_there_is_no_gap_between_its_own_states(kind: type[Langevin | Metropolis]) -> None:
    ratio, given = ratios.classifier(), inputs(kind, 6, 20, dim=3, every=1)
    assert gap(kind, ratio, given, run(kind, ratio, given)[1]) < TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", [0, 7, 19])
def test_a_state_from_elsewhere_is_a_gap(kind: type[Langevin | Metropolis], place: int) -> None:
    ratio, given = ratios.classifier(), inputs(kind, 6, 20, dim=3, every=1)
    states = run(kind, ratio, given)[1].clone()
    states[4, place, 1] += 0.5
    assert gap(kind, ratio, given, states) > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_states_that_are_no_numbers_are_no_parity(kind: type[Langevin | Metropolis]) -> None:
    ratio, given = ratios.classifier(), inputs(kind, 6, 20, dim=3, every=1)
    states = run(kind, ratio, given)[1].clone()
    states[4, 7, 1] = torch.nan
    assert not gap(kind, ratio, given, states) <= DRAW_GAP


@pytest.mark.parametrize("kind", KINDS)
def test_another_step_size_is_a_gap(kind: type[Langevin | Metropolis]) -> None:
    ratio, given = ratios.classifier(), inputs(kind, 6, 20, dim=3, every=1)
    states = run(kind, ratio, given | {"step_size": torch.tensor(0.11)})[1]
    assert gap(kind, ratio, given, states) > 10 * DRAW_GAP


def chance_of_first(ratio: Ratio, given: dict[str, Tensor]) -> Tensor:
    """Below which the uniform number of a chain's first step must be for its proposal to be taken."""
    chain = Metropolis(ratio)
    begin = energy(ratio, given["start"])
    carried = {"codes": given["start"], "energies": begin.value, "gradients": begin.gradient}
    sliced = {"noise": given["noise"][:, 0]}
    return chain._proposed(carried, sliced, {"step_size": given["step_size"]})[2].exp()


@pytest.mark.parametrize(("off", "allowed"), [(1e-6, True), (-1e-6, True), (0.05, False), (-0.05, False)])
def test_a_decision_may_be_the_other_one_only_near_a_tie(off: float, allowed: bool) -> None:
    ratio = ratios.classifier()
    given = inputs(Metropolis, 50, 1, dim=3, step_size=0.8, every=1)
    chances = chance_of_first(ratio, given)
    # Neither near 0, nor certain.
    given = {
        name: tensor[(chances > 0.2) & (chances < 0.9)] if tensor.dim() else tensor
        for name, tensor in given.items()
    }
    chances = chance_of_first(ratio, given)
    assert len(chances) > 3
    given["uniform"] = (chances + off)[:, None]
    # With a uniform number on the other side of the chance, the decision is the other one.
    other = given | {"uniform": (chances - off)[:, None]}
    found = gap(Metropolis, ratio, given, run(Metropolis, ratio, other)[1])
    assert (found <= DRAW_GAP) == allowed


# From here on: the graph in ONNX Runtime against the chain in torch.

OPERATIONS: dict[str, Any] = {"sample/langevin": Langevin, "sample/mala": Metropolis}


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
def test_one_step_of_the_graph_without_noise_is_down_the_gradient(exported: Exported, operation: str) -> None:
    given = inputs(OPERATIONS[operation], 9, 1, dim=3, step_size=0.2, noise=torch.zeros(9, 1, 3))
    given["uniform"] = torch.zeros(9, 1)
    start = given["start"].clone().requires_grad_()
    value = (start.square().sum(dim=1) / 2 - exported.network(start)).sum()
    (gradient,) = torch.autograd.grad(value, start)
    expected = (start - 0.1 * gradient).detach()
    found = exported.outputs(operation, given)["codes"]
    assert ((found - expected).abs() <= TOLERANCE * expected.abs().clamp(min=1)).all()


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("size", [(1, 1, 1), (1, 5, 0), (2, 7, 2), (3, 4, 9), (16, 60, 1)], ids=str)
def test_the_graph_computes_what_the_chain_does(
    exported: Exported, operation: str, size: tuple[int, int, int]
) -> None:
    count, steps, every = size
    kind = OPERATIONS[operation]
    given = inputs(kind, count, steps, dim=3, every=every)
    found = exported.outputs(operation, given)
    expected = run(kind, exported.network, given)
    assert found["states"].shape == (count, steps // every if every else 0, 3)
    assert (found["codes"].dtype, found["energy"].dtype) == (torch.float32, torch.float32)
    for ours, theirs in zip(found.values(), expected, strict=True):
        # Down an energy what is apart comes together again, so that it stays as close over many steps.
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_graph_is_in_parity_with_the_chain(exported: Exported, operation: str) -> None:
    kind = OPERATIONS[operation]
    given = inputs(kind, 16, 200, dim=3, step_size=0.3, every=1)
    assert gap(kind, exported.network, given, exported.outputs(operation, given)["states"]) < DRAW_GAP / 10


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_row_of_the_graph_is_the_same_alone_and_in_a_batch(exported: Exported, operation: str) -> None:
    given = inputs(OPERATIONS[operation], 33, 20, dim=3, every=1)
    together = exported.outputs(operation, given)
    for item in (0, 15, 32):
        alone = exported.outputs(operation, rows(given, item))
        for name, tensor in alone.items():
            assert torch.equal(tensor, together[name][item : item + 1]), name
