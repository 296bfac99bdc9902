import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.unit.trainer.models import ratios
from trainer.models.gaussian.energy import Classifier, Ratio, energy

# Both are sums of the same products, in another order.
TOLERANCE = 1e-5


def differentiated(ratio: Ratio, codes: Tensor) -> Tensor:
    codes = codes.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(ratio(codes).sum(), codes)
    return gradient


def assert_close(found: Tensor, expected: Tensor) -> None:
    """Relative to the largest: an entry near 0 is a sum of larger ones that cancel."""
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()


@settings(deadline=None, max_examples=50)
@given(
    dim=st.integers(1, 40),
    width=st.integers(1, 40),
    layers=st.integers(1, 5),
    count=st.integers(1, 9),
    seed=st.integers(0, 1000),
)
def test_the_gradient_is_what_torch_finds(dim: int, width: int, layers: int, count: int, seed: int) -> None:
    # In float64, for in a narrow network a gradient may be next to nothing by cancellation.
    classifier = ratios.classifier(dim, width, layers, seed).double()
    codes = 3 * torch.randn(count, dim, dtype=torch.float64)
    value, gradient = classifier.with_gradient(codes)
    assert (value.shape, gradient.shape) == ((count,), (count, dim))
    assert_close(gradient, differentiated(classifier, codes))
    torch.testing.assert_close(value.float(), classifier(codes))


@pytest.mark.parametrize("ratio", [ratios.normal(), ratios.mixture()], ids=["normal", "mixture"])
def test_the_gradients_of_known_densities_are_what_torch_finds(ratio: Ratio) -> None:
    """The tests of the samplers rely on them."""
    codes = 2 * torch.randn(50, 2)
    assert_close(ratio.with_gradient(codes).gradient, differentiated(ratio, codes))


@pytest.mark.parametrize("size", [1e-20, 1e3, 1e20])
def test_the_gradient_is_finite_where_a_sigmoid_is_flat(size: float) -> None:
    gradient = ratios.classifier().with_gradient(torch.full((1, 3), size)).gradient
    assert gradient.isfinite().all()


def test_the_energy_is_that_of_the_prior_less_the_ratio() -> None:
    classifier, codes = ratios.classifier(), torch.randn(7, 3)
    value, gradient = energy(classifier, codes)
    prior = torch.distributions.Normal(0, 1).log_prob(codes).sum(dim=1)
    apart = value + prior + classifier(codes)
    # E is -log density, of which the constant of the prior is left out.
    torch.testing.assert_close(apart, apart[:1].expand(7))
    torch.testing.assert_close(gradient, codes - differentiated(classifier, codes))


def test_a_classifier_that_knows_nothing_leaves_the_prior() -> None:
    classifier, codes = ratios.classifier(), torch.randn(7, 3)
    classifier.head.weight.zero_()
    value, gradient = energy(classifier, codes)
    torch.testing.assert_close(value, codes.square().sum(dim=1) / 2 - classifier.head.bias)
    torch.testing.assert_close(gradient, codes)


def test_the_layers_are_as_asked_for() -> None:
    classifier = Classifier(dim=5, width=8, layers=3)
    shapes = [tuple(layer.weight.shape) for layer in classifier.modules() if isinstance(layer, nn.Linear)]
    assert shapes == [(8, 5), (8, 8), (8, 8), (1, 8)]


def test_there_is_dropout_in_training_alone() -> None:
    classifier, codes = Classifier(3, 64, 2, dropout=0.5), torch.randn(5, 3)
    assert not torch.equal(classifier(codes), classifier(codes))
    classifier.eval()
    assert torch.equal(classifier(codes), classifier(codes))
    torch.testing.assert_close(classifier.with_gradient(codes).value, classifier(codes))
