from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from service.contract.manifest import CodesSpec, Input, Operation, Output, Role
from tests.fixtures.tiny_models import Trained
from trainer.data.batches import Batch, ResidentSplit
from trainer.data.loading import Dataset, load
from trainer.data.sources.pictures import OnProgress
from trainer.evaluation import results as module
from trainer.evaluation.exported_model import ExportedModel, Outputs, open_exported, unreported
from trainer.evaluation.results import Effort, likelihood_row, reconstructions_row, sample_rows

EFFORT = Effort(samples=60, seed=3)
SAMPLER = Operation(
    graph="sample",
    inputs=(Input(name="noise", role=Role.normal),),
    outputs=(Output(name="images", role=Role.images),),
)
CONDITIONAL = SAMPLER.model_copy(update={"inputs": (Input(name="label", role=Role.label),)})


class Sampler(ExportedModel):
    """Instead of an exported model: gives test images, of the classes asked for."""

    def __init__(self, dataset: Dataset, operations: dict[str, Operation]) -> None:
        self.operations, self.codes = operations, CodesSpec(dtype="float32", shape=(1,))
        self.asked: list[tuple[str, int, object]] = []
        self.real = dataset.test.take(torch.arange(len(dataset.test)))

    def sample(
        self,
        name: str,
        count: int,
        seed: int,
        labels: Tensor | None = None,
        values: object = None,
        report: OnProgress = unreported,
    ) -> Outputs:
        self.asked.append((name, seed, values))
        report(count, count)
        order = torch.arange(count)
        if labels is not None:
            assert self.real.labels is not None
            order = torch.stack([(self.real.labels == label).nonzero()[0, 0] for label in labels])
        images = self.real.images[order].permute(0, 2, 3, 1)
        return Outputs({Role.images: images}, {"rate": torch.arange(count).float()})


@pytest.fixture(scope="module")
def mnist() -> Dataset:
    """MNIST, of which only some images are looked at."""
    return load("mnist", limit=200)


def some(dataset: Dataset, test: int) -> Dataset:
    batch = dataset.test.take(torch.arange(test))
    return replace(dataset, test=ResidentSplit(batch.images, batch.labels))


def test_reconstructions_are_of_the_whole_test_split(trained: Trained) -> None:
    model, manifest = open_exported(trained.exported.folder)
    row = reconstructions_row(model, trained.dataset, {"bits": 5.0, "mse": 7.0})
    assert (row.of, row.dataset, row.split, row.images) == ("reconstructions", "mnist", "test", 100)
    assert row.values == pytest.approx({**manifest.measures[0].values, "bits": 5.0})


def test_samples_by_every_method_stand_beside_real_test_images(mnist: Dataset) -> None:
    model = Sampler(mnist, {"sample/plain": SAMPLER, "sample/by-class": CONDITIONAL})
    real, plain, by_class = sample_rows(model, mnist, EFFORT, {"by-class": {"steps": 4}})
    assert [row.of for row in (real, plain, by_class)] == ["real images", "sample/plain", "sample/by-class"]
    assert [(row.split, row.images) for row in (real, plain)] == [("test", 60), ("training", 60)]
    # The plain sampler gives the very images of the ceiling.
    assert plain.values["rate"] == pytest.approx(29.5)
    ceiling = {name: value for name, value in real.values.items() if name != "accuracy"}
    assert {name: value for name, value in plain.values.items() if name != "rate"} == pytest.approx(ceiling)
    assert by_class.values["accuracy"] == 1
    assert [(name, values) for name, _, values in model.asked] == [
        ("sample/plain", None),
        ("sample/by-class", {"steps": 4}),
    ]
    assert [seed for _, seed, _ in model.asked] == [EFFORT.seed] * 2


def test_the_row_of_real_images_tells_how_many_there_are(mnist: Dataset) -> None:
    few = some(mnist, 40)
    real, drawn = sample_rows(Sampler(mnist, {"sample/plain": SAMPLER}), few, EFFORT, {})
    assert (real.images, drawn.images) == (40, 60)


def test_the_seed_chooses_the_reference(mnist: Dataset) -> None:
    model = Sampler(mnist, {"sample/plain": SAMPLER})
    seeds = (1, 1, 2)
    rows = [next(sample_rows(model, mnist, replace(EFFORT, seed=seed), {})).values for seed in seeds]
    assert rows[0] == rows[1] != rows[2]


@pytest.mark.parametrize(
    "other",
    [
        lambda dataset: replace(dataset, name="fashion"),
        lambda dataset: replace(dataset, spec=dataset.spec.model_copy(update={"height": 32})),
        lambda dataset: replace(dataset, label_names=None),
    ],
    ids=["name", "size", "classes"],
)
def test_samples_are_measured_for_mnist_alone(mnist: Dataset, other: Callable[[Dataset], Dataset]) -> None:
    model = Sampler(mnist, {"sample/plain": SAMPLER})
    assert list(sample_rows(model, other(mnist), EFFORT, {})) == []


def test_without_a_sampler_there_is_nothing_to_measure(mnist: Dataset) -> None:
    assert list(sample_rows(Sampler(mnist, {"decode": SAMPLER}), mnist, EFFORT, {})) == []


@pytest.mark.parametrize(
    ("images", "expected"), [(1, [1]), (249, [249]), (250, [250]), (260, [250, 10]), (9999, [250, 50])]
)
def test_the_likelihood_is_of_the_first_images(
    mnist: Dataset, monkeypatch: pytest.MonkeyPatch, images: int, expected: list[int]
) -> None:
    seen: list[Batch] = []

    def noted(_: object, batches: Iterator[Batch], **how: object) -> dict[str, float]:
        seen.extend(batches)
        assert (how["samples"], how["seed"]) == (5, 4)
        return {"nll": 1.0}

    monkeypatch.setattr(module, "likelihood", noted)
    few, model = some(mnist, 300), Sampler(mnist, {})
    row = likelihood_row(model, {"binarise": True}, few, images, samples=5, seed=4)
    assert [len(batch) for batch in seen] == expected
    assert torch.equal(
        torch.cat([batch.images for batch in seen]), few.test.take(torch.arange(row.images)).images
    )
    assert (row.of, row.dataset, row.split) == ("likelihood", "mnist, dynamically binarised", "test")
    assert (row.images, row.values) == (min(images, 300), {"nll": 1.0, "nll_samples": 5.0})


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, "mnist"),
        ({"binarise": False, "likelihood": "bernoulli"}, "mnist"),
        ({"likelihood": "logistic", "binarisation": "dynamic"}, "mnist"),
        ({"likelihood": "bernoulli", "binarisation": "dynamic"}, "mnist, dynamically binarised"),
        ({"likelihood": "bernoulli", "binarisation": "fixed", "seed": 3}, "mnist, binarised once"),
    ],
)
def test_images_are_black_and_white_if_the_model_was_trained_on_such(
    mnist: Dataset, monkeypatch: pytest.MonkeyPatch, config: dict[str, object], expected: str
) -> None:
    monkeypatch.setattr(module, "likelihood", lambda *_, binarise, **__: {"elbo": float(binarise is None)})
    row = likelihood_row(Sampler(mnist, {}), config, mnist, 10, samples=1)
    assert (row.dataset, row.values) == (expected, {"elbo": float(expected == "mnist")})
