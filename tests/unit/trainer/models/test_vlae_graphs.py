"""What a VLAE exports, and that the draws of the exported graphs are held against torch's."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from service.contract.manifest import ImageSpec, Role
from tests.fixtures import tiny_models
from trainer.export.parity import DRAW_GAP, gap_of_others
from trainer.models.graph import Graph
from trainer.models.vlae import VLAE

GREY_8 = ImageSpec(channels=1, height=8, width=8)
COLOUR_8 = ImageSpec(channels=3, height=8, width=8)
DRAWS = 4000


def model(spec: ImageSpec = GREY_8, classes: int = 10, **changes: str | float) -> VLAE:
    likelihood = "bernoulli" if spec.channels == 1 else "logistic"
    return (
        tiny_models.vlae(spec, classes, **{"likelihood": likelihood, **changes}).eval().requires_grad_(False)
    )


def graph(of: VLAE, operation: str) -> Graph:
    return next(graph for graph in of.graphs() if graph.operation == operation)


def scored(of: VLAE, images: Tensor, noise: Tensor, *label: Tensor) -> list[Tensor]:
    return list(graph(of, "score").module(images, noise, *label))


def binary(count: int) -> Tensor:
    """Black and white images, uint8 ``(N, H, W, C)``."""
    return (tiny_models.images(count, 1, 8, 8) // 128 * 255).permute(0, 2, 3, 1).contiguous()


@pytest.mark.parametrize("spec", [GREY_8, COLOUR_8])
@pytest.mark.parametrize("classes", [0, 10])
def test_the_graphs_say_what_they_take_and_give(spec: ImageSpec, classes: int) -> None:
    of = model(spec, classes)
    operations = {each.operation: each.as_operation() for each in of.graphs()}
    assert operations.keys() == {"encode", "decode", "score", "sample/prior", "sample/interpolate"}
    assert [name for name, each in operations.items() if each.untiled] == ["encode", "decode", "score"]
    (noise,) = (item for item in operations["decode"].inputs if item.is_noise)
    noises = {1: 1, 3: 2 + 3}[spec.channels]
    assert (noise.role, noise.shape, noise.default_seed) == (Role.uniform, (64, noises), 0)
    assert operations["decode"].parameters.keys() == {"temperature", "mean"}
    for operation in ("score", "sample/prior"):
        labels = [item.default for item in operations[operation].inputs if item.role is Role.label]
        assert labels == ([classes] if classes else [])
    # Its name is not that of the decoder's: a request to sample sets both.
    assert operations["sample/prior"].parameters.keys() == {"code_temperature"}
    for each in of.graphs():
        assert len(each.examples) == len(each.axes) == len(each.inputs)
        outputs = each.module(*each.examples)
        assert len(outputs if isinstance(outputs, tuple) else [outputs]) == len(each.outputs)


def test_the_default_code_temperature_is_the_config_s() -> None:
    (parameter,) = graph(model(code_temperature=0.7), "sample/prior").parameters.values()
    assert parameter.default == 0.7


# The score.


def test_a_score_of_one_draw_is_that_of_the_densities() -> None:
    of, images, labels = model(), binary(3), torch.tensor([1, 2, 10])
    noise = torch.randn(3, 1, 3, generator=torch.Generator().manual_seed(0))
    elbo, reconstruction, kl, nll = scored(of, images, noise, labels)
    pixels = images.permute(0, 3, 1, 2) / 255
    posterior = of.posterior(pixels)
    codes = posterior.sample(noise[:, 0])
    fit, prior = of.log_prob(pixels, codes), of.prior.log_probs(codes, labels).sum(dim=1)
    normal = torch.distributions.Normal(posterior.mean, (posterior.log_variance / 2).exp())
    torch.testing.assert_close(reconstruction, fit)
    torch.testing.assert_close(kl, -normal.entropy().sum(dim=1) - prior)
    torch.testing.assert_close(elbo, reconstruction - kl)
    torch.testing.assert_close(-nll, fit + prior - normal.log_prob(codes).sum(dim=1))


@pytest.mark.slow
def test_the_score_of_many_draws_is_the_integral_over_all_codes() -> None:
    """That over draws from the prior has the same mean; of so small a model, also a small variance."""
    of, images = model(), binary(2)
    generator = torch.Generator().manual_seed(1)
    nll = scored(of, images, torch.randn(2, DRAWS, 3, generator=generator), torch.tensor([4, 10]))[3]
    for row, label in enumerate((4, 10)):
        labels = torch.full((DRAWS,), label)
        given = (torch.randn(DRAWS, 3, generator=generator), torch.tensor(1.0), labels)
        (codes,) = graph(of, "sample/prior").module(*given)
        pixels = (images[row : row + 1].permute(0, 3, 1, 2) / 255).expand(DRAWS, -1, -1, -1)
        weights = of.log_prob(pixels, codes).double()
        expected = torch.tensor(DRAWS).log() - weights.logsumexp(dim=0)
        assert float(nll[row]) == pytest.approx(float(expected), abs=0.05)


def test_a_score_without_classes_takes_no_label() -> None:
    of, images = model(classes=0), binary(2)
    noise = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    elbo, _, _, nll = scored(of, images, noise)
    assert (nll < -elbo).all()


# Draws, held against torch's.


def off(at: int) -> object:
    """A runtime with the outputs of torch, except for one pixel of the decoded images."""

    def run(of: Graph, inputs: dict[str, Tensor]) -> Sequence[Tensor]:
        outputs = tiny_models.run_in_torch(of, inputs)
        if of.operation == "decode":
            (images,) = outputs
            images = images.contiguous().clone()
            images.view(-1)[at] = 255 - images.view(-1)[at]
            return [images]
        return outputs

    return run


@pytest.mark.parametrize("spec", [GREY_8, COLOUR_8])
def test_draws_that_are_torchs_have_no_gap(spec: ImageSpec) -> None:
    of = model(spec)
    assert gap_of_others(of.graphs(), tiny_models.run_in_torch) <= DRAW_GAP


@pytest.mark.parametrize("spec", [GREY_8, COLOUR_8])
def test_a_draw_that_is_not_torchs_is_found(spec: ImageSpec) -> None:
    of = model(spec)
    assert gap_of_others([graph(of, "decode")], off(at=5)) > DRAW_GAP  # type: ignore[arg-type]  # a runtime
