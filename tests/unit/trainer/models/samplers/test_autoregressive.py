import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from service.contract.manifest import CodesSpec
from tests.fixtures import tiny_models
from tests.unit.trainer.models import priors
from trainer.evaluation.exported_model import ExportedGraphs
from trainer.export.onnx_export import write_graphs
from trainer.export.parity import DRAW_GAP
from trainer.models.code_prior.network import CodePrior, Ordered
from trainer.models.code_prior.stage import PriorStage
from trainer.models.samplers.autoregressive import COLDEST, CodeSampler, cumulative

LARGEST_NOISE = 1 - 2**-24


def inputs(
    network: CodePrior,
    count: int,
    *,
    noise: Tensor | None = None,
    codes: Tensor | None = None,
    mask: Tensor | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    label: int | list[int] | None = None,
    guidance: float = 1.0,
) -> dict[str, Tensor]:
    """The inputs of a sampler; what is not given is random, from a fixed seed, or has no effect."""
    generator = torch.Generator().manual_seed(count)
    places = math.prod(network.grid)
    whole = torch.ones(count, *network.grid, dtype=torch.bool)
    made = {
        "noise": torch.rand(count, places, generator=generator) if noise is None else noise,
        "codes": (priors.codes_of(network, count) if codes is None else codes).int(),
        "mask": whole if mask is None else mask,
        "temperature": torch.tensor(temperature),
        "top_k": torch.tensor(network.size if top_k is None else top_k),
    }
    if network.classes:
        made["label"] = (
            torch.tensor(label) if isinstance(label, list) else priors.labels_of(network, label, count)
        )
        made["guidance"] = torch.tensor(guidance)
    return made


def draw(network: CodePrior, given: dict[str, Tensor]) -> Tensor:
    (codes,) = CodeSampler(network)(*given.values())
    assert (codes.dtype, codes.shape) == (torch.int32, given["codes"].shape)
    return codes


def rows(given: dict[str, Tensor], part: slice) -> dict[str, Tensor]:
    """The same inputs for some of the images."""
    return {name: tensor[part] if tensor.dim() else tensor for name, tensor in given.items()}


def half(count: int, grid: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.rand(count, *grid, generator=torch.Generator().manual_seed(seed)) < 0.5


def even(count: int) -> Tensor:
    """Noise spread evenly over [0, 1)."""
    return (torch.arange(count) + 0.5) / count


@pytest.mark.parametrize("grid", [(2, 3), (2, 2, 2)])
def test_codes_beside_the_mask_are_kept(grid: tuple[int, ...]) -> None:
    network = priors.prior(grid=grid)
    given = inputs(network, 50, mask=half(50, network.grid), label=0)
    codes, kept = draw(network, given), given["codes"]
    assert torch.equal(codes[~given["mask"]], kept[~given["mask"]])
    assert not torch.equal(codes, kept)
    assert torch.equal(draw(network, given | {"mask": torch.zeros_like(given["mask"])}), kept)


def test_codes_under_the_mask_do_not_matter() -> None:
    network = priors.prior()
    given = inputs(network, 20, mask=half(20, network.grid))
    other = torch.where(given["mask"], (given["codes"] + 1) % network.size, given["codes"])
    assert torch.equal(draw(network, given | {"codes": other}), draw(network, given))


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_the_same_noise_draws_the_same_codes_alone_and_among_others(guidance: float) -> None:
    network = priors.prior()
    labels = [0, 1, 2, 3, 0]
    given = inputs(network, 5, mask=half(5, network.grid), label=labels, guidance=guidance)
    together = draw(network, given)
    assert torch.equal(draw(network, given), together)
    for item in range(5):
        assert torch.equal(draw(network, rows(given, slice(item, item + 1))), together[item : item + 1])
    other = given | {"noise": given["noise"].flip(0)}
    assert not torch.equal(draw(network, other), together)


@pytest.mark.slow
@pytest.mark.parametrize("label", [None, 2])
def test_codes_are_drawn_as_often_as_they_are_probable(label: int | None) -> None:
    network, side = priors.prior(size=3, grid=(1, 2)), 150
    noise = torch.cartesian_prod(even(side), even(side))
    found = Counter(
        map(tuple, draw(network, inputs(network, len(noise), noise=noise, label=label))[:, 0].tolist())
    )
    whole = torch.ones(1, 2, dtype=torch.bool)
    grids = priors.every(3, torch.zeros(1, 2).long(), whole)
    expected = priors.probabilities(network, grids, whole, label)
    assert len(found) == 9
    for codes, probability in zip(grids[:, 0].tolist(), expected.tolist(), strict=True):
        # Each of the two draws hits an interval of evenly spread noise once more or less than is its share.
        assert abs(found[tuple(codes)] / len(noise) - probability) < 2 / side


def test_completions_are_drawn_as_often_as_they_are_probable() -> None:
    network, count = priors.prior(size=3, grid=(2, 2)), 3000
    mask = torch.tensor([[False, True], [False, False]])
    kept = torch.tensor([[0, 0], [2, 1]])
    # Only the noise of the last position counts: the three given codes come before it.
    noise = torch.cat([torch.rand(count, 3), even(count)[:, None]], dim=1)
    masks, codes = mask.expand(count, -1, -1), kept.expand(count, -1, -1)
    drawn = draw(network, inputs(network, count, noise=noise, mask=masks, codes=codes, label=1))[:, 0, 1]
    expected = priors.probabilities(network, priors.every(3, kept, mask), mask, 1)
    assert expected.min() > 0.01
    shares = torch.bincount(drawn, minlength=3) / count
    assert ((shares - expected).abs() < 2 / count).all()


def log_probabilities(network: CodePrior, label: int | None) -> Tensor:
    """Of the single code of a 1x1 grid."""
    grids = torch.arange(network.size).view(-1, 1, 1)
    return priors.probabilities(network, grids, torch.ones(1, 1, dtype=torch.bool), label).log()


@pytest.mark.parametrize("guidance", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize(("temperature", "top_k"), [(0.7, 4), (1.0, 6), (2.0, 2)])
def test_parameters_bend_the_probabilities(guidance: float, temperature: float, top_k: int) -> None:
    network, count = priors.prior(size=6, grid=(1, 1)), 2000
    plain, given = (log_probabilities(network, label) for label in (None, 1))
    logits = (plain + guidance * (given - plain)) / temperature
    among = torch.full_like(logits, -torch.inf)
    among[logits.topk(top_k).indices] = 0
    expected = (logits + among).softmax(dim=0)
    noise = even(count)[:, None]
    drawn = draw(
        network,
        inputs(network, count, noise=noise, temperature=temperature, top_k=top_k, label=1, guidance=guidance),
    )
    shares = torch.bincount(drawn.flatten(), minlength=6) / count
    assert ((shares - expected).abs() < 2 / count).all()
    assert (shares[expected == 0] == 0).all()


def likeliest(network: CodePrior, codes: Tensor, mask: Tensor, label: int | None) -> Tensor:
    """A grid ``(h, w)`` whose masked codes are, one by one, the likeliest by the network's own figures."""
    codes = codes.clone()
    ordered = Ordered.of(mask.expand(network.size, -1, -1))
    order = ordered.order[0].tolist()
    for place in mask.flatten().nonzero()[:, 0].tolist():
        # The probability of this code does not depend on the codes after it, so any will do.
        grids = codes.repeat(network.size, 1, 1)
        grids.flatten(1)[:, place] = torch.arange(network.size)
        nats = network(grids, priors.labels_of(network, label, network.size), ordered)
        codes.view(-1)[place] = int(nats[:, order.index(place)].argmin())
    return codes


@pytest.mark.parametrize("label", [None, 0])
@pytest.mark.parametrize("parameters", [{"temperature": 0.0}, {"top_k": 1}, {"top_k": 1, "temperature": 2.0}])
def test_the_likeliest_codes_need_no_noise(label: int | None, parameters: dict[str, float]) -> None:
    network = priors.prior()
    masks = half(12, network.grid)
    given = inputs(network, 12, mask=masks, label=label) | {
        name: torch.tensor(value) for name, value in parameters.items()
    }
    expected = torch.stack(
        [
            likeliest(network, codes.long(), mask, label)
            for codes, mask in zip(given["codes"], masks, strict=True)
        ]
    )
    for noise in (0.0, 0.5, LARGEST_NOISE):
        drawn = draw(network, given | {"noise": torch.full_like(given["noise"], noise)})
        assert torch.equal(drawn, expected.int())


def test_guidance_of_nothing_is_a_draw_without_a_class() -> None:
    network = priors.prior()
    unguided = inputs(network, 40, label=2, guidance=0.0)
    assert torch.equal(draw(network, unguided), draw(network, inputs(network, 40)))
    assert not torch.equal(draw(network, unguided), draw(network, inputs(network, 40, label=2)))


def test_without_a_label_guidance_does_nothing() -> None:
    network = priors.prior()
    plain, guided = (draw(network, inputs(network, 40, guidance=guidance)) for guidance in (1.0, 3.0))
    assert torch.equal(plain, guided)
    labels = [1, 3] * 20
    plain, guided = (
        draw(network, inputs(network, 40, label=labels, guidance=guidance)) for guidance in (1.0, 3.0)
    )
    assert torch.equal(plain[1::2], guided[1::2])
    assert not torch.equal(plain[::2], guided[::2])


def test_the_transformer_runs_no_rows_that_would_change_nothing() -> None:
    network = priors.prior()
    sampler = CodeSampler(network)

    def run(label: int | list[int] | None, guidance: float) -> int:
        given = inputs(network, 4, label=label, guidance=guidance)
        return len(sampler.start(*given.values()).fixed["rows"])

    assert [run(1, 1.0), run(None, 2.0), run(1, 2.0), run([3, 3, 3, 0], 2.0)] == [4, 4, 8, 8]


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_of_its_own_draws_there_is_no_gap(guidance: float) -> None:
    network = priors.prior()
    given = inputs(network, 30, mask=half(30, network.grid), label=[0, 1, 2] * 10, guidance=guidance)
    assert CodeSampler(network).gap(tuple(given.values()), draw(network, given)) == 0


def test_the_gap_is_the_distance_from_the_noise_to_the_interval_of_the_code() -> None:
    network, noise = priors.prior(size=4, grid=(1, 1)), 0.6
    sums = log_probabilities(network, 0).exp().cumsum(0).tolist()
    for code in range(4):
        below, above = [0, *sums][code], sums[code]
        given = inputs(network, 1, noise=torch.tensor([[noise]]), label=0)
        found = CodeSampler(network).gap(tuple(given.values()), torch.tensor([[[code]]], dtype=torch.int32))
        assert found == pytest.approx(max(0, below - noise, noise - above), abs=1e-5)


def test_each_code_is_compared_after_those_that_were_given() -> None:
    network = priors.prior(size=3, grid=(1, 2), classes=0)
    noise = torch.tensor([[0.2, 0.4]])
    given = inputs(network, 1, noise=noise)
    own = draw(network, given)
    other = own.clone()
    other[0, 0, 0] = (other[0, 0, 0] + 1) % 3
    # What it would have drawn after that code.
    mask = torch.tensor([[[False, True]]])
    after = draw(network, given | {"codes": other, "mask": mask})
    sampler, values = CodeSampler(network), tuple(given.values())
    of_first = sampler.gap(values, after)
    assert of_first > 0.01
    wrong = after.clone()
    wrong[0, 0, 1] = (wrong[0, 0, 1] + 1) % 3
    assert sampler.gap(tuple((given | {"codes": other, "mask": mask}).values()), after) == 0
    assert sampler.gap(tuple((given | {"codes": other, "mask": mask}).values()), wrong) > 0.01
    assert sampler.gap(values, wrong) >= of_first


def test_a_code_that_was_not_kept_is_infinitely_far() -> None:
    network = priors.prior()
    given = inputs(network, 3, mask=half(3, network.grid))
    codes = draw(network, given)
    first = int((~given["mask"]).flatten().nonzero()[0])
    codes.view(-1)[first] = (codes.view(-1)[first] + 1) % network.size
    assert CodeSampler(network).gap(tuple(given.values()), codes) == math.inf


# Eighths, of which no two become one where the largest is taken away from them.
some_logits = st.lists(st.integers(-400, 400), min_size=1, max_size=12).map(
    lambda some: torch.tensor(some) / 8
)
temperatures = st.one_of(st.just(COLDEST), st.floats(0.125, 2, width=32))


@settings(deadline=None)
@given(logits=some_logits, temperature=temperatures, top_k=st.integers(1, 12))
def test_cumulative_probabilities_rise_to_one(logits: Tensor, temperature: float, top_k: int) -> None:
    top_k = min(top_k, len(logits))
    (sums,) = cumulative(logits[None], torch.tensor(temperature), torch.tensor(top_k))
    assert (sums.diff() >= 0).all()
    assert sums[0] >= 0
    assert sums[-1] == 1
    least = logits.topk(top_k).values[-1]
    # What is out of the question has no interval; what is left has one, unless it is next to impossible.
    shares = torch.cat([sums[:1], sums.diff()])
    assert (shares[logits < least] == 0).all()
    assert shares[logits.argmax()] > 0


@settings(deadline=None, max_examples=50)
@given(
    logits=some_logits.filter(lambda logits: len(logits) > 1),
    top_k=st.integers(1, 12),
    noise=st.sampled_from([0.0, 2**-24, 0.5, 1 - 2**-12, LARGEST_NOISE]),
    temperature=st.sampled_from([0.0, 0.5, 2.0]),
)
def test_no_noise_draws_a_code_that_is_out_of_the_question(
    logits: Tensor, top_k: int, noise: float, temperature: float
) -> None:
    network = priors.of_logits(logits)
    top_k = min(top_k, network.size)
    drawn = int(
        draw(
            network,
            inputs(network, 1, noise=torch.tensor([[noise]]), top_k=top_k, temperature=temperature),
        )
    )
    assert 0 <= drawn < network.size
    assert logits[drawn] >= logits.topk(top_k).values[-1]


# From here on: the graph in ONNX Runtime against the chain in torch.


def stage(classes: int, blocks: int) -> PriorStage:
    """The stage of such a prior, of which the graph is taken here."""
    size, grid = 5, (2, 3)
    config = tiny_models.config(
        codebook_size=size, prior_epochs=1, prior_width=16, prior_blocks=blocks, prior_heads=2
    )
    spec = CodesSpec(dtype="int32", shape=grid, codebook_size=size, codebook_dim=4)
    made = PriorStage(config, spec, classes, encode=torch.neg, decode=torch.neg)
    made.network.load_state_dict(priors.prior(size, grid, classes, blocks=blocks).state_dict())
    return made.eval()


class Exported:
    """A sampler's graph, and the chain that it was made of."""

    def __init__(self, folder: Path, classes: int, blocks: int) -> None:
        made = stage(classes, blocks)
        self.network = made.network
        (self.graph,) = made.graphs()
        write_graphs([self.graph], folder)
        self._run = ExportedGraphs(folder, threads=1)

    def draw(self, given: dict[str, Tensor]) -> Tensor:
        (codes,) = self._run(self.graph, given)
        return codes

    def assert_the_same(self, given: dict[str, Tensor]) -> None:
        with torch.no_grad():
            codes = self.draw(given)
            assert (codes.dtype, codes.shape) == (torch.int32, given["codes"].shape)
            # Only where the noise is this close to where two codes meet, another code is none the worse.
            assert CodeSampler(self.network).gap(tuple(given.values()), codes) <= DRAW_GAP


@pytest.fixture(scope="module")
def by_class(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(tmp_path_factory.mktemp("classes"), classes=3, blocks=2)


@pytest.fixture(scope="module")
def without_classes(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(tmp_path_factory.mktemp("none"), classes=0, blocks=1)


PARAMETERS = [
    (1.0, 5),
    (0.7, 3),
    (0.0, 3),
]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize(("temperature", "top_k"), PARAMETERS)
def test_the_graph_draws_what_torch_does(
    by_class: Exported, count: int, guidance: float, temperature: float, top_k: int
) -> None:
    network = by_class.network
    masks = torch.ones(count, 2, 3, dtype=torch.bool), half(count, (2, 3))
    for labels in ([0] * count, [3] * count, ([3, 1, 3, 2, 0])[:count]):
        for mask in masks:
            by_class.assert_the_same(
                inputs(
                    network,
                    count,
                    mask=mask,
                    temperature=temperature,
                    top_k=top_k,
                    label=labels,
                    guidance=guidance,
                )
            )


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize(("temperature", "top_k"), PARAMETERS)
def test_the_graph_without_classes_does_too(
    without_classes: Exported, count: int, temperature: float, top_k: int
) -> None:
    network = without_classes.network
    for mask in (torch.ones(count, 2, 3, dtype=torch.bool), half(count, (2, 3))):
        without_classes.assert_the_same(
            inputs(network, count, mask=mask, temperature=temperature, top_k=top_k)
        )


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_an_image_is_the_same_alone_and_in_a_batch(by_class: Exported, guidance: float) -> None:
    labels = [0, 1, 2, 3] * 16
    given = inputs(by_class.network, 64, mask=half(64, (2, 3)), label=labels, guidance=guidance)
    together = by_class.draw(given)
    for item in range(0, 64, 9):
        alone = by_class.draw(rows(given, slice(item, item + 1)))
        assert torch.equal(alone, together[item : item + 1])
    parts = [by_class.draw(rows(given, part)) for part in (slice(0, 5), slice(5, 64))]
    assert torch.equal(torch.cat(parts), together)
