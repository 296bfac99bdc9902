import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from service.contract.manifest import CodesSpec, Role
from tests.fixtures import tiny_models
from tests.unit.trainer.models import priors
from trainer.config import VQVAEConfig
from trainer.data.batches import Batch
from trainer.image_sheets import GAP, NAME_LINE
from trainer.models.code_prior import sampling
from trainer.models.code_prior.stage import PriorStage
from trainer.models.graph import Graph, RunGraph

GRID = (2, 3)
SIZE = 4


def parity(stage: PriorStage, run: RunGraph) -> float:
    return stage.parity(stage.graphs(), run)


def config(**changes: Any) -> VQVAEConfig:
    values = {
        "codebook_size": SIZE,
        "prior_epochs": 1,
        "prior_width": 16,
        "prior_blocks": 1,
        "prior_heads": 2,
    }
    return tiny_models.config(**values | changes)


def encode(images: Tensor) -> Tensor:
    """The grid of an image of 2x3 pixels: each of four levels is a code."""
    return (images[:, 0] // 64).int()


def decode(codes: Tensor) -> Tensor:
    return (codes * 64).byte()[:, None]


def stage(classes: int = 2, **changes: Any) -> PriorStage:
    torch.manual_seed(0)
    given = config(**changes)
    spec = CodesSpec(dtype="int32", shape=GRID, codebook_size=given.codebook_size, codebook_dim=4)
    return PriorStage(given, spec, classes, encode, decode)


def toy(count: int) -> Batch:
    """Codes of which the first row is the class, and the second what follows it."""
    labels = torch.arange(count) % 2
    codes = torch.stack([labels, labels + 1], dim=1)[:, :, None].expand(-1, *GRID)
    return Batch(codes.short(), labels)


def trained(made: PriorStage, steps: int = 100) -> list[float]:
    """Train on the toy set; the losses."""
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-2)
    batch, losses = toy(64), []
    made.train()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / steps)
        found = made(batch.images, batch.labels)
        optimizer.zero_grad()
        found.loss.backward()
        optimizer.step()
        losses.append(float(found.metrics["loss"]))
    made.eval()
    return losses


@pytest.fixture(scope="module")
def learned() -> PriorStage:
    made = stage(prior_label_drop=0.5)
    losses = trained(made)
    assert losses[0] == pytest.approx(math.log(SIZE), rel=0.1)
    assert sum(losses[-10:]) / 10 < 0.15
    return made


@torch.no_grad()
def test_it_learns_which_codes_go_together(learned: PriorStage) -> None:
    figures = learned.measure([toy(10), toy(6)])
    assert figures.keys() == {"bits", "bits_given_class"}
    # By its class an image is known; without it, it is one of two.
    assert figures["bits_given_class"] < 0.15
    assert 1 <= figures["bits"] < 1.15
    assert learned.monitor([toy(16)]) == {"test_bits": pytest.approx(figures["bits_given_class"], rel=1e-4)}


def test_it_draws_what_it_learned(learned: PriorStage) -> None:
    (graph,) = learned.graphs()
    count = 96
    labels = torch.arange(count) % 3
    masks = torch.ones(count, *GRID, dtype=torch.bool)
    kept = toy(count).images.int()
    given = dict(zip([item.name for item in graph.inputs], graph.examples, strict=True))
    given |= {
        "noise": torch.rand(count, 6, generator=torch.Generator().manual_seed(0)),
        "codes": kept,
        "mask": masks,
        "label": labels,
        "guidance": torch.tensor(1.0),
    }
    (drawn,) = graph.module(*given.values())
    alike = (drawn == toy(2).images[:, None]).flatten(2).all(dim=2)
    assert (alike[0] | alike[1]).float().mean() > 0.9
    assert (drawn[labels == 0, 0, 0] == 0).float().mean() > 0.9
    assert (drawn[labels == 1, 0, 0] == 1).float().mean() > 0.9
    assert 0.2 < (drawn[labels == 2, 0, 0] == 0).float().mean() < 0.8
    # From its last code, without a class, it is known which image it is.
    masks[:, 1, 2] = False
    (drawn,) = graph.module(*(given | {"label": torch.full_like(labels, 2)}).values())
    assert (drawn == kept).float().mean() > 0.95


def test_it_learns_to_draw_in_parallel() -> None:
    made = stage(prior_label_drop=0.5, prior_parallel_share=0.5)
    trained(made)
    autoregressive, parallel = made.graphs()
    assert [autoregressive.operation, parallel.operation] == ["sample/autoregressive", "sample/parallel"]
    limits = parallel.parameters["steps"]
    assert (limits.minimum, limits.default, limits.maximum) == (1, 6, 6)
    count = 90
    masks = torch.ones(count, *GRID, dtype=torch.bool)
    given = sampling.inputs(made.network, torch.full((count,), 2), masks, guidance=1.0)
    given["steps"] = torch.tensor(3)
    for graph in (autoregressive, parallel):
        (drawn,) = graph.module(*sampling.of_graph(graph, given).values())
        alike = (drawn == toy(2).images[:, None]).flatten(2).all(dim=2)
        # One code is drawn in the first step, and says what the others are; independent draws seldom agree.
        assert (alike[0] | alike[1]).float().mean() > 0.7
    assert parity(made, tiny_models.run_in_torch) == 0


@torch.no_grad()
def test_the_loss_is_of_the_codes_to_be_drawn_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made = stage(prior_label_drop=0.0).eval()
    made.network.load_state_dict(priors.prior(SIZE, GRID, 2, blocks=1).state_dict())
    masks = torch.tensor([[[True, False, False], [False, False, False]], [[True, True, False], [True] * 3]])
    batch = toy(2)
    assert batch.labels is not None
    monkeypatch.setattr("trainer.models.code_prior.stage.random_masks", lambda *_: masks)
    step = made(batch.images, batch.labels)
    expected = 0.0
    for grid, mask, label in zip(batch.images.long(), masks, batch.labels.tolist(), strict=True):
        expected -= float(priors.probabilities(made.network, grid[None], mask, label).log())
    assert float(step.loss) == pytest.approx(expected / int(masks.sum()), rel=1e-5)
    monkeypatch.setattr("trainer.models.code_prior.stage.random_masks", lambda *_: torch.zeros_like(masks))
    assert made(batch.images, batch.labels).loss == 0


@pytest.mark.parametrize("classes", [0, 2])
def test_codes_of_which_nothing_is_known_take_all_their_bits(classes: int) -> None:
    made = stage(classes).eval()
    made.network.head.weight.detach().zero_()
    bits = 6 * math.log2(SIZE)
    expected = {"bits": bits, "bits_given_class": bits} if classes else {"bits": bits}
    # The mean over images, however they are batched.
    assert made.measure([toy(5), toy(1)]) == pytest.approx(expected)


@torch.no_grad()
def test_bits_are_a_mean_over_images_by_their_probability() -> None:
    made = stage().eval()
    made.network.load_state_dict(priors.prior(SIZE, GRID, 2, blocks=1).state_dict())
    batches = [
        Batch(priors.codes_of(made.network, count).short(), torch.ones(count).long()) for count in (3, 5)
    ]
    codes = torch.cat([batch.images for batch in batches]).long()
    whole = torch.ones(GRID, dtype=torch.bool)
    figures = made.measure(batches)
    for name, label in (("bits", None), ("bits_given_class", 1)):
        expected = -priors.probabilities(made.network, codes, whole, label).log2().mean()
        assert figures[name] == pytest.approx(float(expected), rel=1e-5)


def test_a_prior_that_never_saw_a_label_ignores_them() -> None:
    made = stage(prior_label_drop=1.0)
    labels = made.network.label.weight.detach()[:2].clone()
    made(toy(32).images, toy(32).labels).loss.backward()
    assert made.network.label.weight.grad is not None
    assert not made.network.label.weight.grad[:2].any()
    assert made.network.label.weight.grad[2].any()
    assert torch.equal(made.network.label.weight[:2], labels)


def test_a_prior_that_is_always_told_never_learns_to_do_without() -> None:
    made = stage(prior_label_drop=0.0)
    made(toy(32).images, toy(32).labels).loss.backward()
    assert made.network.label.weight.grad is not None
    assert made.network.label.weight.grad[:2].any()
    assert not made.network.label.weight.grad[2].any()


@torch.no_grad()
@pytest.mark.parametrize("classes", [0, 2])
def test_images_without_labels_will_do(classes: int) -> None:
    made = stage(classes)
    batch = Batch(toy(8).images, None)
    assert made(batch.images, batch.labels).loss.isfinite()
    assert made(batch.images).loss.isfinite()
    made.eval()
    # The metric given the class needs labels.
    assert made.measure([batch]).keys() == {"bits"}
    assert made.monitor([batch]) == {"test_bits": pytest.approx(made.measure([batch])["bits"])}


def test_labels_of_a_dataset_without_classes_are_passed_over() -> None:
    made = stage(0)
    assert made(toy(8).images, toy(8).labels).loss.isfinite()


@pytest.mark.parametrize(("size", "dtype"), [(2**15 - 1, torch.int16), (2**15 + 1, torch.int32)])
def test_the_codes_of_an_epoch_take_little_memory(size: int, dtype: torch.dtype) -> None:
    images = tiny_models.images(5, height=2, width=3)
    inputs = stage(codebook_size=size, prior_width=8).inputs(images)
    assert inputs.dtype == dtype
    assert torch.equal(inputs.int(), encode(images))


@torch.no_grad()
def test_with_flips_it_learns_from_mirror_images_and_is_measured_without() -> None:
    images = tiny_models.images(64, height=2, width=3)
    made = stage(0, flips=True)
    inputs = made.inputs(images)
    assert torch.equal(inputs[:, 0].int(), encode(images))
    assert torch.equal(inputs[:, 1].int(), encode(images.flip(3)))
    views = made._one_each(inputs)
    mirrored = (views == inputs[:, 1]).flatten(1).all(dim=1)
    assert ((views == inputs[:, 0]).flatten(1).all(dim=1) | mirrored).all()
    assert 16 <= int(mirrored.sum()) <= 48
    made.eval()
    assert torch.equal(made._one_each(inputs), inputs[:, 0].long())
    plain = stage(0).eval()
    assert made.measure([Batch(inputs, None)]) == plain.measure([Batch(inputs[:, 0], None)])


def test_the_stage_has_the_weights_of_its_network_alone() -> None:
    made = stage()
    assert {name.split(".")[0] for name in made.state_dict()} == {"network"}
    schedule = stage(prior_lr=0.5, prior_batch_size=7, prior_epochs=3, warmup_steps=9).schedule()
    assert (schedule.lr, schedule.batch_size, schedule.epochs, schedule.warmup_steps) == (0.5, 7, 3, 9)


@pytest.mark.parametrize("classes", [0, 2])
def test_the_graph_says_what_it_takes(classes: int) -> None:
    made = stage(classes, prior_temperature=0.75)
    (graph,) = made.graphs()
    operation = graph.as_operation()
    assert graph.operation == "sample/autoregressive"
    roles = {item.name: item.role for item in operation.inputs}
    expected = {"noise": Role.uniform, "codes": Role.codes, "mask": Role.mask}
    expected |= {"temperature": Role.parameter, "top_k": Role.parameter}
    if classes:
        expected |= {"label": Role.label, "guidance": Role.parameter}
    assert roles == expected
    assert [item.shape for item in operation.inputs if item.name == "noise"] == [(6,)]
    assert [(item.name, item.role) for item in operation.outputs] == [("drawn", Role.codes)]
    # Without a label in the request, the draw is unconditional.
    assert [item.default for item in operation.inputs if item.role is Role.label] == [2] * bool(classes)
    parameters = {name: (of.minimum, of.default, of.maximum) for name, of in operation.parameters.items()}
    assert parameters["top_k"] == (1, SIZE, SIZE)
    assert parameters["temperature"][:2] == (0, 0.75)
    assert parameters.keys() == {name for name, role in roles.items() if role is Role.parameter}
    if classes:
        least, default, most = parameters["guidance"]
        assert least == 0
        assert 1 <= default < most
        # What is pictured is drawn with the defaults.
        pictured = made._pictured()
        assert all(float(pictured[name]) == of[1] for name, of in parameters.items())
    assert len(graph.examples) == len(graph.axes) == len(graph.inputs)
    assert graph.module(*graph.examples)[0].shape == (2, *GRID)


@pytest.mark.parametrize("classes", [0, 2])
def test_a_picture_shows_draws_by_class_in_columns(classes: int) -> None:
    made = stage(classes)
    made.label_names = ("a", "b")[:classes]
    trained(made)
    with torch.no_grad():
        (picture,) = made.pictures(toy(1)).values()
    assert picture.dtype == torch.uint8
    if classes:
        # Two columns as wide as a name is high, each below its name; in each there are ten images.
        assert picture.shape[1:] == (NAME_LINE + 2 * GAP + 10 * 4 + GAP, 2 * (NAME_LINE + GAP) + GAP)
        first_pixels = picture[0, NAME_LINE + 2 * GAP + GAP :: 4, GAP + 5 :: NAME_LINE + GAP]
        assert first_pixels.shape == (10, 2)
    else:
        # Ten by ten images of 2x3 pixels, two pixels between them.
        assert picture.shape == (3, 10 * 4 + 2, 10 * 5 + 2)
        first_pixels = picture[0, 2::4, 2::5]
        assert first_pixels.shape == (10, 10)
    of_first, of_second = first_pixels[:, 0::2] // 64 == 0, first_pixels[:, 1::2] // 64 == 1
    if classes:
        assert of_first.float().mean() > 0.8
        assert of_second.float().mean() > 0.8
    else:
        assert 0.2 < of_first.float().mean() < 0.8


@pytest.mark.parametrize(("classes", "rows"), [(3, 10), (12, 8)])
def test_a_column_is_of_one_class(classes: int, rows: int) -> None:
    labels = stage(classes)._pictured()["label"].view(rows, classes)
    assert labels.tolist() == [list(range(classes))] * rows


def test_there_is_parity_with_its_own_draws_and_none_with_others() -> None:
    made = stage().eval()
    assert parity(made, tiny_models.run_in_torch) == 0

    def tampered(graph: Graph, inputs: Mapping[str, Tensor]) -> Sequence[Tensor]:
        (codes,) = tiny_models.run_in_torch(graph, inputs)
        # The first image is drawn whole.
        codes[0, 0, 0] = (codes[0, 0, 0] + 2) % SIZE
        return [codes]

    def not_kept(graph: Graph, inputs: Mapping[str, Tensor]) -> Sequence[Tensor]:
        (codes,) = tiny_models.run_in_torch(graph, inputs)
        return [torch.where(inputs["mask"], codes, (codes + 1) % SIZE)]

    assert parity(made, tampered) > 0.01
    assert parity(made, not_kept) == math.inf


def test_parity_is_looked_at_with_all_that_may_be_asked_for() -> None:
    seen: dict[str, Tensor] = {}

    def noted(graph: Graph, inputs: Mapping[str, Tensor]) -> Sequence[Tensor]:
        seen.update(inputs)
        return tiny_models.run_in_torch(graph, inputs)

    parity(stage().eval(), noted)
    assert set(seen["label"].tolist()) == {0, 1, 2}
    assert seen["guidance"] != 1
    whole = seen["mask"].flatten(1).all(dim=1)
    assert whole[::2].all()
    assert not whole[1::2].all()
