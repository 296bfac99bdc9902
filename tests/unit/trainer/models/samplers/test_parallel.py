import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.unit.trainer.models import priors
from trainer.evaluation.exported_model import ExportedGraphs
from trainer.export.onnx_export import write_graphs
from trainer.models.code_prior import sampling
from trainer.models.code_prior.network import CodePrior, Ordered
from trainer.models.code_prior.orders import drawn_before
from trainer.models.samplers.autoregressive import CodeSampler, cumulative
from trainer.models.samplers.parallel import ParallelSampler

Inputs = dict[str, Tensor]
GRID = (2, 3)


def inputs(network: CodePrior, count: int, steps: int, guidance: float = 2.0) -> Inputs:
    given = sampling.examples(network, count, guidance=guidance)
    return sampling.of_graph(sampling.parallel(network, 1.0), given | {"steps": torch.tensor(steps)})


def draw(network: CodePrior, given: Inputs) -> Tensor:
    (codes,) = ParallelSampler(network)(*given.values())
    assert (codes.dtype, codes.shape) == (torch.int32, given["codes"].shape)
    return codes


def rows(given: Inputs, part: slice) -> Inputs:
    return {name: tensor[part] if tensor.dim() else tensor for name, tensor in given.items()}


@pytest.mark.parametrize("steps", [1, 3, 6])
@pytest.mark.parametrize("classes", [0, 3])
def test_codes_are_kept_beside_the_mask_and_do_not_matter_under_it(classes: int, steps: int) -> None:
    network = priors.prior(classes=classes)
    given = inputs(network, 40, steps)
    codes, kept, mask = draw(network, given), given["codes"], given["mask"]
    assert torch.equal(codes[~mask], kept[~mask])
    assert not torch.equal(codes, kept)
    other = given | {"codes": torch.where(mask, (kept + 1) % network.size, kept)}
    assert torch.equal(draw(network, other), codes)
    assert torch.equal(draw(network, given | {"mask": torch.zeros_like(mask)}), kept)


def test_the_same_noise_draws_the_same_codes_alone_and_among_others() -> None:
    network = priors.prior()
    given = inputs(network, 6, 3)
    together = draw(network, given)
    for item in range(6):
        assert torch.equal(draw(network, rows(given, slice(item, item + 1))), together[item : item + 1])


@pytest.mark.parametrize("steps", [1, 2, 3, 6])
def test_each_code_is_drawn_from_its_probability_given_those_of_the_steps_before(steps: int) -> None:
    network, guidance = priors.prior(), 1.5
    sampler, count = ParallelSampler(network), 8
    given = inputs(network, count, steps, guidance)
    codes, places = draw(network, given), math.prod(GRID)
    ordered = Ordered.of(given["mask"], sampler.ranks)
    masked = ordered.masked.sum(dim=1)
    ends = places - masked + drawn_before(masked, torch.tensor(steps))
    for row in range(count):
        sequence = ordered.order[row].tolist()
        for known, after in zip(ends[:-1, row].tolist(), ends[1:, row].tolist(), strict=True):
            for position in range(known, after):
                # The place comes right after those that are known: the order that the network was trained on.
                others = [place for place in sequence[known:] if place != sequence[position]]
                order = torch.tensor([[*sequence[:known], sequence[position], *others]])
                sums = cumulative(
                    logits(network, codes[row], order, given["label"][row], guidance, known),
                    given["temperature"],
                    given["top_k"],
                )
                drawn = int((sums <= given["noise"][row, position]).sum())
                assert drawn == codes[row].flatten()[sequence[position]]


def logits(
    network: CodePrior, codes: Tensor, order: Tensor, label: Tensor, guidance: float, position: int
) -> Tensor:
    """Guided logits at a position of a sequence, by the network as it is trained, without a cache."""
    sequence = codes.flatten()[order].long()
    before = torch.nn.functional.pad(sequence[:, :-1], (1, 0), value=network.size)
    found = []
    for each in (label, torch.tensor(network.no_label)):
        context = network.context(order, each[None])
        found.append(network.head(network.transformer(network.code(before) + context))[:, position])
    return found[1] + guidance * (found[0] - found[1])


def test_the_gap_of_a_draw_is_that_of_its_noise() -> None:
    network = priors.prior()
    given = inputs(network, 20, 3)
    codes, sampler = draw(network, given), ParallelSampler(network)
    assert sampler.gap(tuple(given.values()), codes) == 0
    mask = given["mask"]
    other = torch.where(mask, (codes + 2) % network.size, codes)
    assert sampler.gap(tuple(given.values()), other) > 0.1
    assert (
        sampler.gap(tuple(given.values()), torch.where(mask, codes, (codes + 1) % network.size)) == math.inf
    )


def test_one_by_one_every_code_is_drawn_as_the_other_sampler_draws_it() -> None:
    # In one row, of which the codes are ranked from left to right by hand.
    network = priors.prior(grid=(1, 5))
    sampler = ParallelSampler(network)
    sampler.ranks = torch.arange(5)
    given = inputs(network, 30, 5)
    (codes,) = sampler(*given.values())
    graph = sampling.autoregressive(network, 1.0)
    (expected,) = CodeSampler(network)(*sampling.of_graph(graph, given).values())
    assert torch.equal(codes, expected)


@pytest.mark.slow
def test_the_graph_draws_as_torch_does(tmp_path: Path) -> None:
    network = priors.prior(blocks=1)
    graph = sampling.parallel(network, 1.0)
    write_graphs([graph], tmp_path)
    run = ExportedGraphs(tmp_path, threads=1)
    for count, steps, guidance in ((1, 1, 1.0), (5, 3, 2.0), (8, 6, 2.0)):
        given = inputs(network, count, steps, guidance)
        assert torch.equal(run(graph, given)[0], draw(network, given))
