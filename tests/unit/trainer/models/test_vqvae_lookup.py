"""The lookup of a VQ-VAE as it is exported, with and without a loop, against the arg-min of all distances."""

from collections.abc import Mapping
from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from service.contract.manifest import ImageSpec, Tiling
from tests.fixtures import tiny_models
from trainer.evaluation.exported_model import ExportedGraphs
from trainer.export.onnx_export import write_graphs
from trainer.models.base import to_pixels, to_unit
from trainer.models.graph import Graph
from trainer.models.onnx_scan import Chain
from trainer.models.quantizers import lookup
from trainer.models.vqvae import VQVAE

pytestmark = pytest.mark.slow

RGB_12x20 = ImageSpec(channels=3, height=12, width=20)
STRIDE = 4
# The cells of such an image are three blocks.
CELLS, BLOCK = 15, 5
# Fewer than a group, and two groups and padding. Imports of diffusers have whole groups.
SIZES = (7, 130)


class EveryFourthPixel(nn.Module):
    """An encoder whose outputs are so coarse that sums of their products have no rounding.

    Two levels of a pixel are no finite numbers.
    """

    untiled = None

    def forward(self, images: Tensor) -> Tensor:
        levels = to_pixels(images[:, :, ::STRIDE, ::STRIDE]).float()
        return (levels / 16 - 8).where(levels < 255, torch.inf).where(levels != 254, torch.nan)

    def tiling(self) -> Tiling:
        """A cell is a pixel."""
        return Tiling(receptive_field=1, halo=0)


def model(size: int) -> VQVAE:
    made = tiny_models.model(RGB_12x20, codebook_size=size, codebook_dim=3, update="ema").eval()
    made.encoder = EveryFourthPixel()  # type: ignore[assignment]
    # Of some codes there are several, and most rows are as near to one code as to another.
    generator = torch.Generator().manual_seed(size)
    made.quantizer.codebook.copy_(torch.randint(-4, 5, (size, 3), generator=generator) * 2)
    return made


class Written:
    """The graphs of an encoder, in torch and in ONNX Runtime."""

    def __init__(self, folder: Path, size: int) -> None:
        self.model = model(size)
        graph = self.model.graphs()[0]
        self.graphs: Mapping[str, Graph] = {"cpu": graph, **graph.variants}
        self.files = {provider: folder / each.file for provider, each in self.graphs.items()}
        write_graphs([*self.graphs.values()], folder, self.model.codebook())
        self._run = ExportedGraphs(folder, threads=1)

    def codes(self, images: Tensor) -> list[Tensor]:
        """Of each graph."""
        return [self._run(graph, {"images": images})[0] for graph in self.graphs.values()]

    def operators(self, provider: str) -> list[str]:
        graph = onnx.load(self.files[provider], load_external_data=False).graph
        return [node.op_type for node in graph.node]


@pytest.fixture(scope="module", params=SIZES)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookup, "DISTANCES", BLOCK * request.param)
        patch.setattr(lookup, "FEWEST_ROWS", 1)
        return Written(tmp_path_factory.mktemp("lookup"), request.param)


def test_only_the_graph_for_the_cpu_has_a_loop(written: Written) -> None:
    assert list(written.graphs) == ["cpu", "cuda"]
    assert [graph.file for graph in written.graphs.values()] == ["encoder.onnx", "encoder.cuda.onnx"]
    assert "Scan" in written.operators("cpu")
    assert "Scan" not in written.operators("cuda")
    assert written.operators("cuda").count("ArgMin") == 1
    # It is stored once, in a file of its own.
    codebook = written.model.codebook().numpy().tobytes()
    assert [codebook in file.read_bytes() for file in written.files.values()] == [False, False]


def test_no_shape_is_computed_on_a_gpu(written: Written) -> None:
    graph = onnx.load(written.files["cuda"], load_external_data=False).graph
    weights = {item.name for item in graph.initializer}
    shapes = {name for node in graph.node if node.op_type == "Shape" for name in node.output}
    given = {node.input[1] for node in graph.node if node.op_type == "Reshape"}
    assert len(shapes) == 1
    assert shapes <= given <= shapes | weights


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**31),
    grid=st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)),
    step=st.sampled_from([1, 8, 32]),
)
def test_the_graphs_find_the_first_of_the_nearest(
    written: Written, seed: int, grid: tuple[int, int, int], step: int
) -> None:
    count, height, width = grid
    shape = (count, height * STRIDE, width * STRIDE, 3)
    generator = torch.Generator().manual_seed(seed)
    images = (torch.randint(0, 256, shape, generator=generator) // step * step).byte()
    rows = written.model.encoder(to_unit(images.permute(0, 3, 1, 2))).permute(0, 2, 3, 1).reshape(-1, 3)
    codebook = written.model.quantizer.codebook
    expected = F.linear(rows * -2, codebook, codebook.square().sum(dim=1)).argmin(dim=1).view(grid)
    finite = rows.isfinite().all(dim=1).view(grid)
    for codes in written.codes(images):
        assert codes.shape == grid
        assert codes.dtype == torch.int32
        assert torch.equal(codes[finite], expected[finite].int())
        assert 0 <= codes.min() <= codes.max() < len(codebook)


@pytest.mark.parametrize("level", [254, 255])
def test_an_image_without_a_finite_row_gives_codes(written: Written, level: int) -> None:
    for codes in written.codes(torch.full((1, 8, 12, 3), level, dtype=torch.uint8)):
        assert codes.shape == (1, 2, 3)
        assert 0 <= codes.min() <= codes.max() < written.model.quantizer.size


@pytest.mark.parametrize(("more", "loops"), [(0, False), (1, True)])
def test_an_image_that_is_one_block_needs_no_loop(more: int, loops: bool) -> None:
    square = ImageSpec(channels=3, height=32, width=32)
    graph = tiny_models.model(square, codebook_size=lookup.DISTANCES // 64 + more).graphs()[0]
    assert isinstance(graph.module, Chain) == loops


@pytest.mark.parametrize(("size", "groups"), [(2 * lookup.GROUP - 1, False), (2 * lookup.GROUP, True)])
def test_a_gpu_has_another_graph_where_the_arg_min_of_a_cpu_has_two_levels(size: int, groups: bool) -> None:
    graph = tiny_models.model(RGB_12x20, codebook_size=size).graphs()[0]
    assert graph.as_operation().provider_graphs == ({"cuda": "encoder.cuda.onnx"} if groups else {})
