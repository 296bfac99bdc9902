import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from service.contract.manifest import Role
from tests.fixtures import tiny_models
from tests.unit.trainer.models import exported as samplers
from tests.unit.trainer.models.exported import Exported
from trainer.data.batches import Batch
from trainer.export.parity import DRAW_GAP
from trainer.image_sheets import PANEL_GAP, TITLE_HEIGHT
from trainer.models.gaussian.noise_contrastive import (
    LARGEST_STEP,
    MOST_PROPOSALS,
    MOST_STEPS,
    PROPOSALS,
    SMALLEST_STEP,
    STEP_SIZE,
    STEPS,
    ClassifierStage,
)
from trainer.models.graph import Graph, RunGraph

DIM = 3
# The toy posterior: each code near 2 in the first dimension, of variance 1/4 in all.
MEAN, LOG_VARIANCE = (2.0, 0.0, 0.0), math.log(0.25)


def parity(stage: ClassifierStage, run: RunGraph) -> float:
    return stage.parity(stage.graphs(), run)


def posterior(images: Tensor) -> Tensor:
    """Mean and log-variance: the levels of an image of 1x6 pixels."""
    return images[:, 0, 0].float()


def decode(codes: Tensor) -> Tensor:
    """Images of 1x1 pixels that are grey by the first dimension: 128 at 0."""
    return (codes[:, :1] * 32 + 128).clamp(0, 255).byte()[:, :, None, None]


def stage(**changes: Any) -> ClassifierStage:
    torch.manual_seed(0)
    return ClassifierStage(tiny_models.ncp_config(latent_dim=DIM, **changes), posterior, decode)


def toy(count: int) -> Batch:
    row = torch.tensor([*MEAN, *[LOG_VARIANCE] * DIM])
    return Batch(row.expand(count, -1).clone(), None)


@pytest.fixture(scope="module")
def learned() -> ClassifierStage:
    made = stage(classifier_width=32)
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-2)
    batch = toy(512)
    made.train()
    for step in range(400):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / 400)
        optimizer.zero_grad()
        made(batch.images).loss.backward()
        optimizer.step()
    return made.eval().requires_grad_(False)


def log_ratio(codes: Tensor) -> Tensor:
    """log q(z) / p(z) of the toy posterior."""
    q = torch.distributions.Normal(torch.tensor(MEAN), 0.5)
    p = torch.distributions.Normal(0.0, 1.0)
    return (q.log_prob(codes) - p.log_prob(codes)).sum(dim=1)


@pytest.mark.slow
@torch.no_grad()
def test_it_learns_to_tell_codes_from_draws(learned: ClassifierStage) -> None:
    figures = learned.measure([toy(2000)])
    generator = torch.Generator().manual_seed(3)
    drawn = torch.randn(20_000, DIM, generator=generator)
    real = torch.tensor(MEAN) + 0.5 * torch.randn(20_000, DIM, generator=generator)
    # No classifier is right more often than the one that knows both densities.
    right = ((log_ratio(real) > 0).float().mean() + (log_ratio(drawn) <= 0).float().mean()) / 2
    assert right > 0.93
    # Of 2,000 images, each with a draw of the prior: a standard error below 0.005.
    assert figures["classifier_accuracy"] == pytest.approx(float(right), abs=0.025)
    best = (F.softplus(-log_ratio(real)).mean() + F.softplus(log_ratio(drawn)).mean()) / 2
    assert figures["classifier_loss"] == pytest.approx(float(best), abs=0.03)
    # Where codes are, its logit is the ratio of the densities: by it, an energy is the posterior's.
    apart = learned.network(real) - log_ratio(real)
    assert apart.abs().mean() < 1


@pytest.mark.slow
@torch.no_grad()
def test_its_samplers_draw_from_the_posterior_that_it_learned(learned: ClassifierStage) -> None:
    """Roughly, for the classifier is small. The prior, which they start from, is far off."""
    langevin, metropolis, resampling = learned.graphs()
    chain = learned._chain_inputs(2000, 200)
    corrected = learned._metropolis_inputs(2000, 200)
    draws = torch.randn(2000, PROPOSALS, DIM, generator=torch.Generator().manual_seed(1))
    found = [
        langevin.module(*chain.values())[0],
        metropolis.module(*corrected.values())[0],
        resampling.module(draws, corrected["uniform"][:, 0])[0],
    ]
    for codes in found:
        assert codes.mean(dim=0).tolist() == pytest.approx(MEAN, abs=0.2)
        assert codes.std(dim=0).tolist() == pytest.approx([0.5] * DIM, abs=0.15)


@torch.no_grad()
def test_a_classifier_that_knows_nothing_has_a_loss_of_log_2() -> None:
    made = stage().eval()
    made.network.head.weight.zero_()
    made.network.head.bias.zero_()
    figures = made.measure([toy(5), toy(3)])
    assert figures == pytest.approx({"classifier_loss": math.log(2), "classifier_accuracy": 0.5})


@torch.no_grad()
def test_the_loss_is_the_binary_cross_entropy_of_both_halves() -> None:
    made, batch = stage().eval(), toy(64)
    torch.manual_seed(5)
    step = made(batch.images)
    torch.manual_seed(5)
    real = torch.tensor(MEAN) + 0.5 * torch.randn(64, DIM)
    logits = made.network(torch.cat([real, torch.randn(64, DIM)]))
    targets = torch.tensor([1.0] * 64 + [0.0] * 64)
    expected = F.binary_cross_entropy_with_logits(logits, targets)
    torch.testing.assert_close(step.loss, expected)
    assert step.metrics == {"loss": step.loss}
    assert step.lowest == {"lowest_loss": step.loss}


@torch.no_grad()
def test_codes_and_draws_are_new_in_each_step() -> None:
    made, batch = stage().eval(), toy(64)
    assert made(batch.images).loss != made(batch.images).loss


@torch.no_grad()
def test_figures_are_means_over_images_and_the_same_each_time(learned: ClassifierStage) -> None:
    batches = [toy(700), toy(300)]
    figures = learned.measure(batches)
    assert figures == learned.measure(batches)
    # The noise of the second batch is another, so this is so up to chance.
    assert figures == pytest.approx(learned.measure([toy(1000)]), abs=0.05)
    assert learned.monitor(batches) == {
        "test_loss": figures["classifier_loss"],
        "test_accuracy": figures["classifier_accuracy"],
    }
    one, other = (learned.measure([batch])["classifier_loss"] for batch in (toy(700), toy(300)))
    assert min(one, other) - 0.05 < figures["classifier_loss"] < max(one, other) + 0.05


def test_it_is_trained_on_the_posterior_by_its_own_schedule() -> None:
    made = stage(
        classifier_epochs=3,
        classifier_lr=0.5,
        classifier_batch_size=7,
        classifier_weight_decay=0.25,
        classifier_average_decay=0.5,
        warmup_steps=9,
        batch_size=11,
    )
    schedule = made.schedule()
    assert (schedule.epochs, schedule.lr, schedule.batch_size) == (3, 0.5, 7)
    assert (schedule.weight_decay, schedule.average_decay, schedule.warmup_steps) == (0.25, 0.5, 9)
    images = tiny_models.images(4, 1, 1, 6)
    assert torch.equal(made.inputs(images), posterior(images))
    assert {name.split(".")[0] for name in made.state_dict()} == {"network"}


def test_the_network_is_as_the_config_says() -> None:
    made = stage(classifier_width=24, classifier_layers=3, classifier_dropout=0.5)
    assert [layer.weight.shape for layer in made.network.hidden] == [(24, 3), (24, 24), (24, 24)]
    assert made.network.dropout == 0.5


def test_the_graphs_say_what_they_take_and_give() -> None:
    operations = {graph.operation: graph.as_operation() for graph in stage().graphs()}
    assert operations.keys() == {"sample/langevin", "sample/mala", "sample/sir"}
    roles = {
        name: [(item.name, item.role, item.shape) for item in of.inputs if item.role is not Role.parameter]
        for name, of in operations.items()
    }
    start, noise = ("start", Role.normal, (DIM,)), ("noise", Role.normal, ("steps", DIM))
    assert roles == {
        "sample/langevin": [start, noise],
        "sample/mala": [start, noise, ("uniform", Role.uniform, ("steps",))],
        "sample/sir": [("draws", Role.normal, ("proposals", DIM)), ("uniform", Role.uniform, ())],
    }
    bounds = {
        name: {part: (of.minimum, of.default, of.maximum) for part, of in operation.parameters.items()}
        for name, operation in operations.items()
    }
    chain = {
        "steps": (1, STEPS, MOST_STEPS),
        "step_size": (SMALLEST_STEP, STEP_SIZE, LARGEST_STEP),
        "every": (0, 0, MOST_STEPS),
    }
    assert bounds == {
        "sample/langevin": chain,
        "sample/mala": chain,
        "sample/sir": {"proposals": (1, PROPOSALS, MOST_PROPOSALS)},
    }
    outputs = {name: [(item.name, item.role) for item in of.outputs] for name, of in operations.items()}
    first = [("codes", Role.codes), ("states", Role.states), ("energy", Role.figure)]
    assert outputs == {
        "sample/langevin": first,
        "sample/mala": [*first, ("acceptance_rate", Role.figure)],
        "sample/sir": [("codes", Role.codes), ("effective_proposals", Role.figure)],
    }


def test_the_examples_are_what_the_graphs_take() -> None:
    for graph in stage().eval().graphs():
        assert len(graph.examples) == len(graph.axes) == len(graph.inputs)
        with torch.no_grad():
            outputs = graph.module(*graph.examples)
        assert len(outputs) == len(graph.outputs)


# Its pictures.


def test_a_picture_shows_the_prior_beside_what_langevin_makes_of_it(learned: ClassifierStage) -> None:
    (picture,) = learned.pictures(toy(1)).values()
    # Two sheets of eight by eight images of one pixel, two pixels between them, below their titles.
    side = 8 * 3 + 2
    assert (picture.shape, picture.dtype) == ((3, TITLE_HEIGHT + side, 2 * side + PANEL_GAP), torch.uint8)
    sheets = (
        picture[0, TITLE_HEIGHT + 2 :: 3, 2:side:3].float(),
        picture[0, TITLE_HEIGHT + 2 :: 3, side + PANEL_GAP + 2 :: 3].float(),
    )
    assert [sheet.shape for sheet in sheets] == [(8, 8), (8, 8)]
    # The first dimension is about 0 by the prior, and about 2 by what was learned: 64 levels brighter.
    assert float(sheets[0].mean()) == pytest.approx(128, abs=20)
    assert float(sheets[1].mean()) == pytest.approx(128 + 64, abs=20)


# Parity of its samplers.


def test_there_is_parity_with_its_own_draws() -> None:
    assert parity(samplers.stage(), tiny_models.run_in_torch) < DRAW_GAP / 10


@pytest.mark.slow
def test_there_is_parity_with_what_onnx_runtime_draws(exported: Exported) -> None:
    assert parity(exported.stage, exported.run) < DRAW_GAP / 10


OUTPUTS = [
    *[("sample/langevin", name) for name in ("codes", "states")],
    *[("sample/mala", name) for name in ("codes", "states")],
    ("sample/sir", "codes"),
]


@pytest.mark.parametrize("value", [0.01, math.nan, math.inf])
@pytest.mark.parametrize(("operation", "output"), OUTPUTS)
def test_there_is_none_with_other_draws(operation: str, output: str, value: float) -> None:
    def tampered(graph: Graph, inputs: Mapping[str, Tensor]) -> Sequence[Tensor]:
        found = {
            item.name: tensor.clone(memory_format=torch.contiguous_format)
            for item, tensor in zip(graph.outputs, tiny_models.run_in_torch(graph, inputs), strict=True)
        }
        if graph.operation == operation:
            found[output].flatten(1)[3, -1] += value
        return [*found.values()]

    assert not parity(samplers.stage(), tampered) <= DRAW_GAP


@pytest.mark.slow
def test_there_is_none_with_another_classifier(exported: Exported) -> None:
    other = samplers.stage()
    other.network.head.weight.mul_(1.01)
    assert parity(other, exported.run) > DRAW_GAP
