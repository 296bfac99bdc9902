import pytest
import torch

from trainer.data.loading import load
from trainer.evaluation.reference_classifier import AT_ONCE, FEATURES, FILE, classified, reference_classifier


@pytest.mark.slow
def test_it_knows_digits() -> None:
    batch = load("mnist").test.take(torch.arange(1000))
    _, found = classified(reference_classifier(), batch.images)
    assert batch.labels is not None
    # 99.4 % of all 10,000; the first thousand are among the harder ones.
    assert float((found == batch.labels).float().mean()) > 0.985


def test_its_features_are_those_before_the_last_layer() -> None:
    model = reference_classifier()
    images = torch.randint(256, (7, 1, 28, 28), generator=torch.Generator().manual_seed(0)).byte()
    features, found = classified(model, images)
    assert features.shape == (7, FEATURES)
    torch.testing.assert_close(model.head(features), model(images))
    assert torch.equal(found, model(images).argmax(dim=1))


@pytest.mark.slow
def test_it_is_frozen_and_does_not_depend_on_the_batch() -> None:
    model = reference_classifier()
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    images = load("mnist").test.take(torch.arange(AT_ONCE + 3)).images
    features, _ = classified(model, images)
    torch.testing.assert_close(features[-3:], classified(model, images[-3:])[0], rtol=1e-5, atol=1e-5)


def test_its_weights_are_small() -> None:
    assert FILE.stat().st_size < 500_000
