from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from service.contract.manifest import Input, Output, Role
from trainer.evaluation.exported_model import ExportedGraphs
from trainer.export.onnx_export import write_graphs
from trainer.export.parity import DRAW_GAP
from trainer.models.autoregressive.pixel_decoder import PixelLoop, PixelStack
from trainer.models.autoregressive.pixel_distributions import Binary, LogisticMixture, PixelDistribution
from trainer.models.graph import Graph

FILTERS, DIM = 4, 3
KINDS: dict[str, PixelDistribution] = {"grey": Binary(1), "colour": LogisticMixture(3, 3)}
CHANNELS = {"grey": 1, "colour": 3}


def stack(channels: int, outputs: int, layers: int) -> PixelStack:
    """One whose biases count too, as after training."""
    made = PixelStack(channels, FILTERS, layers, outputs).requires_grad_(False)
    for parameter in made.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def loop(name: str, size: tuple[int, int] = (6, 5), layers: int = 3) -> PixelLoop:
    torch.manual_seed(0)
    height, width = size
    decoder = nn.Sequential(
        nn.Linear(DIM, FILTERS * height * width), nn.Unflatten(1, (FILTERS, height, width))
    ).requires_grad_(False)
    return PixelLoop(stack(CHANNELS[name], KINDS[name].outputs, layers), KINDS[name], decoder, size).eval()


class Inputs(NamedTuple):
    codes: Tensor
    noise: Tensor
    temperature: Tensor
    mean: Tensor

    def of(self, item: int) -> "Inputs":
        """Those of one image."""
        return self._replace(codes=self.codes[item : item + 1], noise=self.noise[item : item + 1])

    def double(self) -> "Inputs":
        return self._replace(codes=self.codes.double(), noise=self.noise.double())


def inputs(made: PixelLoop, count: int, *, temperature: float = 1.0, mean: int = 0) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    height, width = made.size
    return Inputs(
        torch.randn(count, DIM, generator=generator),
        torch.rand(count, height * width, made.distribution.noises, generator=generator),
        torch.tensor(temperature),
        torch.tensor(mean),
    )


def draw(made: PixelLoop, given: Inputs) -> Tensor:
    (images,) = made(*given)
    assert (images.dtype, images.shape) == (torch.uint8, (len(given[0]), *made.size, made.stack.channels))
    return images


# What is said of a pixel.


def is_seen(height: int, width: int, layers: int) -> Tensor:
    """Which pixel, the last two axes, so many masked layers show to which, the first two.

    Each layer goes a column to the left, or a row up and up to a column aside: to the right, no further than
    it goes up. The first of them does not stay where it is.
    """
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    up, left = rows[:, :, None, None] - rows, columns[:, :, None, None] - columns
    inside = (up >= 0) & (up <= layers) & (left <= layers) & (left >= -up)
    return inside & ((up > 0) | (left > 0))


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_pixel_hangs_on_those_before_it_in_the_window_and_on_the_feature_map(layers: int) -> None:
    torch.manual_seed(0)
    made = stack(2, 3, layers).double()
    pixels, features = torch.rand(1, 2, 5, 9).double(), torch.randn(1, FILTERS, 5, 9).double()
    jacobians = torch.func.jacrev(made, argnums=(0, 1))(pixels, features)
    # The feature map enters after the first layer; the others show more of it, and its own place too.
    own = torch.eye(45, dtype=torch.bool).view(5, 9, 5, 9)
    expected = is_seen(5, 9, layers), is_seen(5, 9, layers - 1) | own
    for jacobian, seen in zip(jacobians, expected, strict=True):
        # Of every number that is said of a pixel, by every channel.
        found = jacobian[0, :, :, :, 0] != 0
        assert torch.equal(found, seen[None, :, :, None].expand_as(found))


# Drawing pixel by pixel.


def drawn_plainly(made: PixelLoop, given: Inputs) -> Tensor:
    """The same images by running the whole stack on the image so far, once for each pixel."""
    codes, noise, temperature, mean = given
    features, (height, width) = made.decoder(codes), made.size
    drawn = torch.zeros(len(codes), made.stack.channels, height, width, dtype=codes.dtype)
    expected = torch.zeros_like(drawn)
    for place in range(height * width):
        row, column = divmod(place, width)
        output = made.stack(drawn, features)[:, :, row, column]
        drawn[:, :, row, column] = made.distribution.draw(output, noise[:, place], temperature).to(drawn)
        expected[:, :, row, column] = made.distribution.mean(output).to(drawn)
    return ((expected if mean else drawn) * 255).round().byte().permute(0, 2, 3, 1)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("mean", [0, 1])
def test_the_loop_draws_what_full_passes_do(name: str, temperature: float, mean: int) -> None:
    # In float64: where two levels meet, the last digit of float32 would tell which is drawn.
    made = loop(name).double()
    given = inputs(made, 4, temperature=temperature, mean=mean).double()
    images = draw(made, given)
    assert torch.equal(images, drawn_plainly(made, given))
    assert len(images.unique()) > 1


@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.parametrize("size", [(1, 4), (4, 2), (3, 7)], ids=str)
def test_it_does_for_any_window_and_size(layers: int, size: tuple[int, int]) -> None:
    made = loop("grey", size, layers).double()
    given = inputs(made, 8).double()
    assert torch.equal(draw(made, given), drawn_plainly(made, given))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_of_its_own_draws_there_is_no_gap_and_of_others_there_is(name: str, temperature: float) -> None:
    made = loop(name)
    given = inputs(made, 4, temperature=temperature)
    images = draw(made, given)
    assert made.gap(given, images) < 1e-6
    for item, row, column in ((0, 0, 0), (1, 3, 2), (3, 5, 4)):
        other = images.clone()
        other[item, row, column] = torch.where(other[item, row, column] < 128, 255, 0)
        assert made.gap(given, other) > DRAW_GAP


@pytest.mark.parametrize("name", KINDS)
def test_each_pixel_is_compared_after_those_that_were_given(name: str) -> None:
    made = loop(name)
    given = inputs(made, 1)
    # Another first pixel, and after it what would follow: the gap is that of the first alone.
    forced = given.noise.clone()
    forced[:, 0] = 0.001 if draw(made, given)[0, 0, 0, 0] > 127 else 0.999
    images = draw(made, given._replace(noise=forced))
    output = made.stack(images.permute(0, 3, 1, 2) / 255, made.decoder(given.codes))[:, :, 0, 0]
    first = images[:, 0, 0] / 255
    expected = float(made.distribution.gap(output, given.noise[:, 0], given.temperature, first))
    assert expected > DRAW_GAP
    assert made.gap(given, images) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_an_image_is_the_same_alone_and_among_others(name: str) -> None:
    made = loop(name).double()
    given = inputs(made, 5).double()
    images = draw(made, given)
    for item in range(5):
        assert torch.equal(draw(made, given.of(item)), images[item : item + 1])


# From here on: the graph in ONNX Runtime against the loop in torch.


@pytest.fixture(scope="module")
def graph() -> Graph:
    made = loop("colour")
    roles = {
        "codes": Role.codes,
        "noise": Role.uniform,
        "temperature": Role.parameter,
        "mean": Role.parameter,
    }
    return Graph(
        operation="decode",
        file="decoder.onnx",
        module=made,
        examples=inputs(made, 2),
        axes=({0: "n"}, {0: "n"}, {}, {}),
        inputs=tuple(Input(name=name, role=role) for name, role in roles.items()),
        outputs=(Output(name="images", role=Role.images),),
        description="",
    )


@pytest.fixture(scope="module")
def run(graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> ExportedGraphs:
    folder = tmp_path_factory.mktemp("pixels")
    write_graphs([graph], folder)
    return ExportedGraphs(folder, threads=1)


def in_onnx(graph: Graph, run: ExportedGraphs, given: Inputs) -> Tensor:
    (images,) = run(graph, {item.name: tensor for item, tensor in zip(graph.inputs, given, strict=True)})
    return images


def assert_as_good(made: PixelLoop, given: Inputs, images: Tensor, expected: Tensor) -> None:
    """The same images, but where the noise is next to where two pixels meet."""
    assert (images.dtype, images.shape) == (expected.dtype, expected.shape)
    assert torch.equal(images, expected) or made.gap(given, images) < DRAW_GAP


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_graph_draws_what_torch_does(
    graph: Graph, run: ExportedGraphs, count: int, temperature: float
) -> None:
    made = loop("colour")
    given = inputs(made, count, temperature=temperature)
    assert_as_good(made, given, in_onnx(graph, run, given), draw(made, given))


@pytest.mark.slow
def test_the_graph_gives_the_means_that_torch_does(graph: Graph, run: ExportedGraphs) -> None:
    made = loop("colour")
    given = inputs(made, 7, mean=1)
    difference = in_onnx(graph, run, given).int() - draw(made, given).int()
    # A mean halfway between two levels may be rounded to either.
    assert difference.abs().max() <= 1
    assert (difference == 0).float().mean() > 0.9


@pytest.mark.slow
def test_an_image_of_the_graph_is_the_same_alone_and_in_a_batch(graph: Graph, run: ExportedGraphs) -> None:
    made = loop("colour")
    given = inputs(made, 7)
    together = in_onnx(graph, run, given)
    for item in range(7):
        one = given.of(item)
        assert_as_good(made, one, in_onnx(graph, run, one), together[item : item + 1])
