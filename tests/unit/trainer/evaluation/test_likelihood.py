import math
from typing import Any

import pytest
import torch
from torch import Tensor

from service.contract.manifest import Role
from tests.unit.trainer.evaluation import linear
from trainer.data.batches import Batch
from trainer.evaluation import likelihood as module
from trainer.evaluation.exported_model import ExportedModel
from trainer.evaluation.likelihood import likelihood

pytestmark = pytest.mark.slow

LEVELS = torch.tensor([0, 60, 130, 255, 20], dtype=torch.uint8)


def batches(size: int = 5) -> list[Batch]:
    return [Batch(part[:, None, None, None], None) for part in LEVELS.split(size)]


def expected() -> float:
    return float(-linear.log_likelihood(LEVELS / 255).mean())


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    return linear.exported(tmp_path_factory.mktemp("linear") / "exact", loose=1.0)


@pytest.fixture(scope="module")
def loose(tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    return linear.exported(tmp_path_factory.mktemp("linear") / "loose", loose=1.3)


@pytest.mark.parametrize("samples", [2, 7, 130])
def test_with_the_exact_posterior_every_weight_is_the_likelihood(exact: ExportedModel, samples: int) -> None:
    values = likelihood(exact, batches(), samples=samples)
    # float32 inside the graph.
    assert values["nll"] == pytest.approx(expected(), abs=1e-5)


@pytest.mark.slow
def test_importance_sampling_comes_to_the_likelihood(loose: ExportedModel) -> None:
    values = likelihood(loose, batches(), samples=20_000)
    # Weights of a q 1.3 times too wide vary by about a third of their mean: over 20,000 of them, and five
    # images, the standard error is near 0.001.
    assert values["nll"] == pytest.approx(expected(), abs=0.005)
    assert -values["elbo"] > values["nll"] + 0.02


def test_the_elbo_is_its_parts(loose: ExportedModel) -> None:
    values = likelihood(loose, batches(), samples=50)
    assert values["elbo"] == pytest.approx(values["reconstruction"] - values["kl"], abs=1e-5)
    spread = linear.SPREAD * 1.3
    means = linear.GAIN * LEVELS.double() / 255
    kl = (means**2 + spread**2 - 1) / 2 - math.log(spread)
    assert values["kl"] == pytest.approx(float(kl.mean()), abs=1e-5)


def test_one_sample_is_no_likelihood(exact: ExportedModel) -> None:
    assert likelihood(exact, batches(), samples=1).keys() == {"elbo", "reconstruction", "kl"}


@pytest.mark.parametrize(("samples", "calls"), [(50, [50]), (100, [50, 50]), (51, [17] * 3), (53, [1] * 53)])
def test_calls_have_equally_many_samples(
    loose: ExportedModel, monkeypatch: pytest.MonkeyPatch, samples: int, calls: list[int]
) -> None:
    asked: list[int] = []
    run = ExportedModel.run

    def counted(self: ExportedModel, *given: object) -> object:
        asked.append(given[-1]["samples"])  # type: ignore[index]  # the values, a dictionary
        return run(self, *given)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(ExportedModel, "run", counted)
    likelihood(loose, batches(), samples=samples)
    assert asked == calls


def test_joined_calls_are_the_mean_of_all_weights(
    loose: ExportedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    run = ExportedModel.run

    def kept(self: ExportedModel, *given: object) -> object:
        outputs = run(self, *given)  # type: ignore[arg-type]  # as they came
        seen.append(outputs.figures["nll"].double())
        return outputs

    monkeypatch.setattr(ExportedModel, "run", kept)
    values = likelihood(loose, batches(), samples=100)
    assert len(seen) == 2
    weights = torch.stack([(-part).exp() for part in seen]).mean(dim=0)
    assert values["nll"] == pytest.approx(float(-weights.log().mean()), abs=1e-9)


def test_many_images_go_in_parts(exact: ExportedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DRAWS_AT_ONCE", 4)
    values = likelihood(exact, batches(3), samples=2)
    assert values["nll"] == pytest.approx(expected(), abs=1e-5)


@pytest.mark.parametrize("samples", [1, 100])
def test_every_number_of_samples_is_of_the_same_black_and_white_images(
    exact: ExportedModel, monkeypatch: pytest.MonkeyPatch, samples: int
) -> None:
    seen: list[Tensor] = []
    run = ExportedModel.run

    def kept(self: ExportedModel, *given: object) -> object:
        seen.append(given[2][Role.images])  # type: ignore[index]  # what is given, by role
        return run(self, *given)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(ExportedModel, "run", kept)
    likelihood(exact, batches(2), samples=samples, binarise=lambda images: (images > 99).float())
    expected = [(batch.images > 99).byte() * 255 for batch in batches(2)]
    assert torch.equal(torch.cat(seen[:: max(1, samples // linear.MOST_SAMPLES)]), torch.cat(expected))


def test_the_samples_follow_the_seed(loose: ExportedModel) -> None:
    runs = [likelihood(loose, batches(), samples=2, seed=seed) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_the_draws_are_those_of_the_service_and_differ_between_calls(
    loose: ExportedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[range] = []
    run = ExportedModel.run

    def kept(self: ExportedModel, names: Any, items: range, *given: Any) -> object:
        seen.append(items)
        return run(self, names, items, *given)

    monkeypatch.setattr(ExportedModel, "run", kept)
    # In a single call, images have their numbers, as in a request to the service.
    likelihood(loose, batches(2), samples=50)
    assert seen == [range(2), range(2, 4), range(4, 5)]
    seen.clear()
    likelihood(loose, batches(2), samples=100)
    assert sorted(number for items in seen for number in items) == list(range(10))
