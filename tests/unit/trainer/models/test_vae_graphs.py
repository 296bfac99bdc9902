import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from service.contract.manifest import ImageSpec, Role
from tests.fixtures import tiny_models
from trainer.evaluation.exported_model import ExportedGraphs
from trainer.export.onnx_export import write_graphs
from trainer.export.parity import CODE_GAP, DRAW_GAP, gap_of_others
from trainer.models.gaussian.likelihoods import likelihood_for
from trainer.models.gaussian.posterior import Posterior
from trainer.models.gaussian.scores import MOST_SAMPLES
from trainer.models.graph import Graph
from trainer.models.vae import VAE

COLOUR_8 = ImageSpec(channels=3, height=8, width=8)
NAMES = ["elbo", "reconstruction", "kl", "nll"]


def model() -> VAE:
    """One whose posteriors and images differ as a trained one's do."""
    made = tiny_models.vae(COLOUR_8, likelihood="gaussian")
    for parameter in made.parameters():
        parameter.detach().add_(0.1 * torch.randn_like(parameter))
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def vae() -> VAE:
    return model()


@pytest.fixture(scope="module")
def exported(vae: VAE, tmp_path_factory: pytest.TempPathFactory) -> ExportedGraphs:
    folder = tmp_path_factory.mktemp("vae")
    write_graphs(vae.graphs(), folder)
    return ExportedGraphs(folder, threads=1)


def images(count: int, seed: int = 0) -> Tensor:
    """uint8 ``(N, H, W, C)``."""
    return tiny_models.images(count, 3, 8, 8, seed).permute(0, 2, 3, 1).contiguous()


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def graph(vae: VAE, operation: str) -> Graph:
    return next(graph for graph in vae.graphs() if graph.operation == operation)


@torch.no_grad()
def in_torch(vae: VAE, operation: str, *inputs: Tensor) -> list[Tensor]:
    outputs = graph(vae, operation).module(*inputs)
    return [*outputs] if isinstance(outputs, tuple) else [outputs]


def in_onnx(exported: ExportedGraphs, vae: VAE, operation: str, *inputs: Tensor) -> list[Tensor]:
    of = graph(vae, operation)
    return [*exported(of, {item.name: tensor for item, tensor in zip(of.inputs, inputs, strict=True)})]


def test_the_graphs_say_what_they_take_and_give(vae: VAE) -> None:
    operations = {of.operation: of.as_operation() for of in vae.graphs()}
    assert operations.keys() == {"encode", "decode", "score", "sample/prior", "sample/interpolate"}
    assert [name for name, of in operations.items() if of.untiled] == ["encode", "decode", "score"]
    (of_encode,) = (item for item in operations["encode"].inputs if item.role is Role.normal)
    # Without a seed the noise is 0 and the code is the mean; a score always needs draws.
    assert (of_encode.default, of_encode.shape) == (0, (3,))
    (of_score,) = (item for item in operations["score"].inputs if item.role is Role.normal)
    assert (of_score.default, of_score.shape) == (None, ("samples", 3))
    samples = operations["score"].parameters["samples"]
    assert (samples.minimum, samples.default, samples.maximum) == (1, 1, MOST_SAMPLES)
    assert [(item.name, item.role) for item in operations["score"].outputs] == [
        (name, Role.figure) for name in NAMES
    ]
    for of in vae.graphs():
        assert len(of.examples) == len(of.axes) == len(of.inputs)
        assert len(in_torch(vae, of.operation, *of.examples)) == len(of.outputs)


# Encode and decode.


def test_without_noise_the_code_is_the_mean_and_with_it_a_draw(vae: VAE) -> None:
    pixels, draws = images(4), noise(4, 3)
    posterior = vae.posterior(pixels.permute(0, 3, 1, 2) / 255)
    (mean,) = in_torch(vae, "encode", pixels, torch.zeros(4, 3))
    torch.testing.assert_close(mean, posterior.mean)
    (drawn,) = in_torch(vae, "encode", pixels, draws)
    torch.testing.assert_close(drawn, posterior.mean + (posterior.log_variance / 2).exp() * draws)
    assert (mean - drawn).abs().min() > 1e-4


def test_to_codes_and_back_is_a_reconstruction(vae: VAE) -> None:
    pixels = images(4)
    (codes,) = in_torch(vae, "encode", pixels, torch.zeros(4, 3))
    (back,) = in_torch(vae, "decode", codes)
    assert (back.dtype, back.shape) == (torch.uint8, (4, 8, 8, 3))
    assert torch.equal(back.permute(0, 3, 1, 2), vae.reconstruct(pixels.permute(0, 3, 1, 2)))


# The score of images.


def linear(scale: float = 1.0, shift: float = 0.0) -> tuple[VAE, Tensor]:
    """A VAE that is linear, and the log density of ``images(6)`` by it, known in closed form.

    x = (W z + b + 1) / 2 + noise of variance 1/2 has a normal distribution, of covariance W W' / 4 + 1/2. The
    columns of W are at right angles, so that the posterior is of independent dimensions: of the variances
    v = 1 / (1 + |w|^2 / 2) and the mean v W' (y - b) / 2, where y = 2 x - 1 is what the encoder sees. That
    times ``scale``, and moved by ``shift``, is the posterior of the model: if 1 and 0, it is exact.
    """
    vae, size = model(), 3 * 8 * 8
    generator = torch.Generator().manual_seed(2)
    weight = torch.linalg.qr(torch.randn(size, 3, generator=generator)).Q * torch.tensor([1.0, 2.0, 0.5])
    bias = torch.randn(size, generator=generator) / 4
    variances = 1 / (1 + weight.square().sum(dim=0) / 2)
    to_mean = variances[:, None] * weight.T / 2
    encode, decode = nn.Linear(size, 6), nn.Linear(3, size)
    encode.weight.data = torch.cat([to_mean, torch.zeros(3, size)])
    encode.bias.data = torch.cat([-to_mean @ bias + shift, (variances * scale).log()])
    decode.weight.data, decode.bias.data = weight, bias
    vae.encoder = nn.Sequential(nn.Flatten(), encode)
    vae.decoder = nn.Sequential(decode, nn.Unflatten(1, (3, 8, 8)))
    vae.likelihood = likelihood_for("mse")
    pixels = (images(6).permute(0, 3, 1, 2) / 255).flatten(1)
    covariance = weight @ weight.T / 4 + torch.eye(size) / 2
    density = torch.distributions.MultivariateNormal(((bias + 1) / 2).double(), covariance.double())
    return vae.requires_grad_(False), density.log_prob(pixels.double())


def score(vae: VAE, pixels: Tensor, draws: Tensor) -> dict[str, Tensor]:
    return dict(zip(NAMES, in_torch(vae, "score", pixels, draws), strict=True))


@pytest.mark.parametrize("samples", [1, 5])
@pytest.mark.parametrize("size", [0.0, 1.0, 3.0])
def test_with_the_exact_posterior_the_score_is_log_p_whatever_the_noise(samples: int, size: float) -> None:
    vae, expected = linear()
    found = score(vae, images(6), size * noise(6, samples, 3))
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in found.items()} == dict.fromkeys(
        NAMES, (torch.float32, (6,))
    )
    # Sums of 192 float32 numbers of a few nats each.
    torch.testing.assert_close(-found["nll"].double(), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.slow
def test_with_the_exact_posterior_the_bound_is_tight() -> None:
    vae, expected = linear()
    found = score(vae, images(6), noise(6, 20_000, 3))
    # The reconstruction is a mean over draws of some nats of spread, sqrt(20000) = 141 times less.
    spread = 5 / 141
    torch.testing.assert_close(found["elbo"].double(), expected, rtol=0, atol=5 * spread)


@pytest.mark.slow
def test_with_another_posterior_the_score_comes_close_with_more_samples() -> None:
    """Of 1.5 times its variance, and half a standard deviation or so aside: weights vary, but not wildly."""
    vae, expected = linear(scale=1.5, shift=0.3)
    of_one, of_many = (score(vae, images(6), noise(6, samples, 3)) for samples in (1, 20_000))
    assert (-of_many["nll"] - expected).abs().max() < 0.05
    assert (-of_one["nll"] - expected).abs().max() > 0.2
    # The gap between the two is the divergence between the posteriors, the same for each image.
    variances = torch.tensor([1 / 1.5, 1 / 3, 1 / 1.125])
    apart = torch.distributions.kl_divergence(
        torch.distributions.Normal(torch.tensor(0.3), (1.5 * variances).sqrt()),
        torch.distributions.Normal(torch.tensor(0.0), variances.sqrt()),
    ).sum()
    assert ((expected - of_many["elbo"]) - apart).abs().max() < 0.1


def test_more_samples_are_a_mean_of_weights_and_of_reconstructions(vae: VAE) -> None:
    pixels, draws = images(4), noise(4, 7, 3)
    together = score(vae, pixels, draws)
    each = [score(vae, pixels, draws[:, place : place + 1]) for place in range(7)]
    log_weights = torch.stack([-one["nll"].double() for one in each])
    torch.testing.assert_close(
        together["nll"].double(), math.log(7) - log_weights.logsumexp(dim=0), rtol=1e-5, atol=1e-3
    )
    torch.testing.assert_close(
        together["reconstruction"], torch.stack([one["reconstruction"] for one in each]).mean(dim=0)
    )


def drawn_divergence(posterior: Posterior, draws: Tensor) -> Tensor:
    """log q(z|x) - log p(z) of each draw of noise, ``(N, S, d)``: ``(N, S)``, of which KL is the mean."""
    mean, deviation = posterior.mean[:, None], (posterior.log_variance[:, None] / 2).exp()
    codes = mean + deviation * draws
    nats = [
        torch.distributions.Normal(*of).log_prob(codes).sum(dim=2) for of in ((mean, deviation), (0.0, 1.0))
    ]
    return nats[0] - nats[1]


def test_the_parts_of_the_score_are_those_of_the_bound(vae: VAE) -> None:
    pixels, draws = images(4), noise(4, 1, 3)
    found = score(vae, pixels, draws)
    shares = pixels.permute(0, 3, 1, 2) / 255
    posterior = vae.posterior(shares)
    output = vae.decoder(posterior.sample(draws[:, 0]))
    torch.testing.assert_close(found["reconstruction"], vae.likelihood.log_prob(output, shares))
    torch.testing.assert_close(found["kl"], posterior.divergence().sum(dim=1))
    torch.testing.assert_close(found["elbo"], found["reconstruction"] - found["kl"])
    # Of one draw, -nll is the bound as well, but that its divergence is that of the draw.
    expected = found["reconstruction"] - drawn_divergence(posterior, draws)[:, 0]
    torch.testing.assert_close(-found["nll"], expected, rtol=1e-5, atol=1e-3)


def test_the_bound_is_below_log_p(vae: VAE) -> None:
    """By Jensen's inequality it is for any draws, if the divergence were that of the draws too."""
    pixels, draws = images(4), noise(4, 500, 3)
    found = score(vae, pixels, draws)
    posterior = vae.posterior(pixels.permute(0, 3, 1, 2) / 255)
    chance = (drawn_divergence(posterior, draws).mean(dim=1) - found["kl"]).abs()
    assert chance.max() < 0.5
    assert (found["elbo"] <= -found["nll"] + chance + 1e-3).all()
    assert (found["elbo"] < -found["nll"]).any()


@pytest.mark.parametrize("likelihood", ["mse", "gaussian", "bernoulli"])
def test_images_beyond_what_float32_could_weigh_have_a_score(likelihood: str) -> None:
    vae = tiny_models.vae(COLOUR_8, likelihood=likelihood).eval()
    for parameter in vae.decoder.parameters():
        parameter.detach().mul_(3)
    found = score(vae, images(3), 5 * noise(3, 9, 3))
    assert all(tensor.isfinite().all() for tensor in found.values())


# Samples of the prior.


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0, 2.0])
def test_codes_of_the_prior_are_noise_of_a_temperature(vae: VAE, temperature: float) -> None:
    draws = noise(5, 3)
    (codes,) = in_torch(vae, "sample/prior", draws, torch.tensor(temperature))
    assert torch.equal(codes, temperature * draws)


# Codes on the way from one to another.


def between(codes: Tensor, target: Tensor, fraction: Tensor, spherical: int) -> Tensor:
    (found,) = in_torch(model(), "sample/interpolate", codes, target, fraction, torch.tensor(spherical))
    return found


@pytest.mark.parametrize("spherical", [0, 1])
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_the_ends_of_the_way_are_the_codes_given(spherical: int, seed: int) -> None:
    codes, target = noise(2, 8, 3, seed=seed)
    assert torch.equal(between(codes, target, torch.zeros(8), spherical), codes)
    assert torch.equal(between(codes, target, torch.ones(8), spherical), target)


def slerp(a: NDArray[np.float64], b: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    angle = np.arccos(np.dot(a / np.linalg.norm(a), b / np.linalg.norm(b)))
    return (np.sin((1 - share) * angle) * a + np.sin(share * angle) * b) / np.sin(angle)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.75])
def test_the_way_is_an_arc_or_straight(share: float) -> None:
    codes, target = noise(2, 20, 5)
    fraction = torch.full((20,), share)
    straight = (1 - share) * codes + share * target
    torch.testing.assert_close(between(codes, target, fraction, 0), straight)
    arc = [slerp(a, b, share) for a, b in zip(codes.double().numpy(), target.double().numpy(), strict=True)]
    found = between(codes, target, fraction, 1)
    # An angle near half a turn, of which the sine is small, loses digits.
    torch.testing.assert_close(found.double(), torch.from_numpy(np.stack(arc)), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, straight, atol=1e-2)


def test_an_arc_stays_as_far_out_as_its_ends() -> None:
    codes, target = torch.nn.functional.normalize(noise(2, 20, 5), dim=2)
    lengths = between(codes, target, torch.full((20,), 0.5), 1).norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(20), rtol=1e-3, atol=0)
    assert between(codes, target, torch.full((20,), 0.5), 0).norm(dim=1).max() < 0.999


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("length", [1e-3, 1.0, 30.0])
def test_where_there_is_no_arc_the_way_is_straight(share: float, length: float) -> None:
    codes = length * noise(6, 3)
    fraction = torch.full((6,), share)
    ends = {"equal": codes, "opposite": -codes, "longer": 2 * codes, "nothing": torch.zeros(6, 3)}
    for name, target in ends.items():
        for a, b in ((codes, target), (target, codes)):
            found = between(a, b, fraction, 1)
            assert found.isfinite().all(), name
            if name != "nothing":
                torch.testing.assert_close(found, (1 - share) * a + share * b, msg=name)
    assert torch.equal(between(0 * codes, 0 * codes, fraction, 1), torch.zeros(6, 3))


# From here on: the graphs in ONNX Runtime against torch.


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 5])
def test_the_graphs_encode_and_decode_as_torch_does(exported: ExportedGraphs, vae: VAE, count: int) -> None:
    pixels = images(count)
    for draws in (torch.zeros(count, 3), noise(count, 3)):
        (codes,) = in_onnx(exported, vae, "encode", pixels, draws)
        torch.testing.assert_close(codes, in_torch(vae, "encode", pixels, draws)[0], rtol=1e-4, atol=1e-4)
    (own,) = in_onnx(exported, vae, "encode", pixels, torch.zeros(count, 3))
    assert vae.code_gap(pixels, own).max() < CODE_GAP / 10
    (back,) = in_onnx(exported, vae, "decode", own)
    expected = in_torch(vae, "decode", own)[0]
    assert (back.dtype, back.shape) == (torch.uint8, (count, 8, 8, 3))
    assert (back.int() - expected.int()).abs().max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (4, 1), (5, 64)], ids=str)
def test_the_graph_scores_as_torch_does(exported: ExportedGraphs, vae: VAE, size: tuple[int, int]) -> None:
    pixels, draws = images(size[0]), noise(*size, 3)
    expected = in_torch(vae, "score", pixels, draws)
    for ours, theirs in zip(in_onnx(exported, vae, "score", pixels, draws), expected, strict=True):
        assert ours.shape == (size[0],)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("spherical", [0, 1])
def test_the_graph_goes_between_codes_as_torch_does(
    exported: ExportedGraphs, vae: VAE, spherical: int
) -> None:
    codes, target = noise(2, 11, 3)
    target[3], target[4], target[5] = codes[3], -codes[4], 0
    fraction = torch.linspace(0, 1, 11)
    inputs = codes, target, fraction, torch.tensor(spherical)
    (found,) = in_onnx(exported, vae, "sample/interpolate", *inputs)
    torch.testing.assert_close(found, between(*inputs[:3], spherical), rtol=1e-4, atol=1e-4)
    assert torch.equal(found[0], codes[0])
    assert torch.equal(found[10], target[10])


@pytest.mark.slow
def test_the_graph_of_the_prior_is_torchs(exported: ExportedGraphs, vae: VAE) -> None:
    inputs = noise(7, 3), torch.tensor(0.7)
    assert torch.equal(in_onnx(exported, vae, "sample/prior", *inputs)[0], 0.7 * inputs[0])


def rows(tensor: Tensor, item: int) -> Tensor:
    return tensor[item : item + 1] if tensor.dim() else tensor


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["encode", "decode", "score", "sample/prior", "sample/interpolate"])
def test_a_row_of_a_graph_is_the_same_alone_and_in_a_batch(
    exported: ExportedGraphs, vae: VAE, operation: str
) -> None:
    given: Mapping[str, tuple[Tensor, ...]] = {
        "encode": (images(9), noise(9, 3)),
        "decode": (noise(9, 3),),
        "score": (images(9), noise(9, 5, 3)),
        "sample/prior": (noise(9, 3), torch.tensor(0.7)),
        "sample/interpolate": (*noise(2, 9, 3), torch.linspace(0, 1, 9), torch.tensor(1)),
    }
    together = in_onnx(exported, vae, operation, *given[operation])
    for item in (0, 4, 8):
        alone = in_onnx(exported, vae, operation, *(rows(tensor, item) for tensor in given[operation]))
        for ours, theirs in zip(alone, together, strict=True):
            assert torch.equal(ours, theirs[item : item + 1])


@pytest.mark.slow
def test_the_graphs_beside_encode_and_decode_are_held_to_torch(exported: ExportedGraphs, vae: VAE) -> None:
    others = [of for of in vae.graphs() if of.operation not in ("encode", "decode")]
    assert len(others) == 3
    assert gap_of_others(others, exported) < DRAW_GAP / 10


@pytest.mark.slow
def test_a_bernoulli_decoder_that_is_sure_of_itself_is_scored(tmp_path: Path) -> None:
    """Far from what it has seen a decoder gives logits in the hundreds, whose sigmoid is 0 in float32."""
    sure = tiny_models.vae(COLOUR_8, likelihood="bernoulli").eval().requires_grad_(False)
    (*_, final) = (layer for layer in sure.decoder.modules() if isinstance(layer, nn.ConvTranspose2d))
    final.weight.mul_(1000)
    score = graph(sure, "score")
    assert float(sure.decoder(noise(2, sure.config.latent_dim)).abs().max()) > 120
    write_graphs([score], tmp_path)
    assert gap_of_others([score], ExportedGraphs(tmp_path, threads=1)) < DRAW_GAP
