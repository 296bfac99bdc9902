import math
import threading
import warnings

import pytest
import torch
from sklearn.metrics import pairwise

from trainer.data.loading import load
from trainer.evaluation.reference_classifier import FEATURES, reference_classifier
from trainer.evaluation.samples import Reference, frechet_distance, spread_labels


def normal(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, FEATURES, generator=torch.Generator().manual_seed(seed))


def test_the_distance_of_a_set_to_itself_is_zero() -> None:
    features = normal(500)
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-3)


def test_the_distance_of_shifted_and_scaled_sets() -> None:
    features = normal(2000)
    # |shift|^2, as the covariances are the same.
    assert frechet_distance(features, features + 0.5) == pytest.approx(0.25 * FEATURES, rel=1e-3)
    # Tr(C + 4 C - 2 * 2 C) = Tr C, beside the mean's own shift.
    centred = features - features.mean(dim=0)
    trace = float(centred.var(dim=0).sum())
    assert frechet_distance(centred, 2 * centred) == pytest.approx(trace, rel=1e-3)


@pytest.mark.slow
def test_real_digits_beat_noise() -> None:
    dataset = load("mnist")
    reference = Reference.of(reference_classifier(), dataset.train.take(torch.arange(600)).images)
    real = dataset.test.take(torch.arange(600))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(256, real.images.shape, generator=generator).byte()
    good, bad = reference.compare(real.images, real.labels), reference.compare(noise)
    assert good["mnist_fd"] < bad["mnist_fd"] / 10
    for name in ("precision", "recall", "density", "coverage"):
        assert bad[name] < 0.1 < 0.7 < good[name]
    assert good["accuracy"] > 0.97
    assert "accuracy" not in bad


@pytest.mark.slow
def test_images_that_are_the_reference_are_as_good_as_can_be() -> None:
    images = load("mnist").train.take(torch.arange(300)).images
    values = Reference.of(reference_classifier(), images).compare(images)
    assert values["precision"] == values["recall"] == values["coverage"] == 1
    assert math.isclose(values["mnist_fd"], 0, abs_tol=1e-3)


def test_comparing_leaves_stdout_and_the_warning_filters_alone(capsys: pytest.CaptureFixture[str]) -> None:
    images = load("mnist").train.take(torch.arange(60)).images
    before, threads = list(warnings.filters), set[str]()
    reference = Reference.of(reference_classifier(), images)
    with pytest.MonkeyPatch.context() as patch:
        euclidean = pairwise.euclidean_distances

        def noted(*given: object, **more: object) -> object:
            threads.add(threading.current_thread().name)
            return euclidean(*given, **more)

        patch.setitem(pairwise.PAIRWISE_DISTANCE_FUNCTIONS, "euclidean", noted)
        reference.compare(images)
    assert threads == {threading.main_thread().name}
    assert warnings.filters == before
    assert capsys.readouterr().out == ""


def test_labels_are_spread_evenly() -> None:
    assert torch.bincount(spread_labels(23, 10)).tolist() == [3, 3, 3] + [2] * 7
