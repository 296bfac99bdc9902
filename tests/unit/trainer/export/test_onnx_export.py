from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto
from safetensors.torch import load_file
from torch import Tensor, nn

from service.contract.manifest import Input, Output, Role
from trainer.export.onnx_export import (
    CODEBOOK_FILE,
    CODEBOOK_TENSOR,
    SMALLEST_BYTES,
    WEIGHTS_FILE,
    write_graphs,
)
from trainer.models.graph import Graph

pytestmark = pytest.mark.slow


class Pairs(nn.Module):
    """The code vectors of each cell and of the one to its right, two and two, added and mixed."""

    def __init__(self, codebook: Tensor) -> None:
        super().__init__()
        self.register_buffer("vectors", codebook)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.mix = nn.Linear(5, 64)

    def forward(self, codes: Tensor) -> Tensor:
        assert isinstance(self.vectors, Tensor)
        looked_up = F.embedding(codes.long(), self.vectors)
        return self.mix(self.scale * (looked_up[:, :, 0::2] + looked_up[:, :, 1::2]))


class Halved(nn.Module):
    """Half of them, with the weights of another module."""

    def __init__(self, pairs: Pairs) -> None:
        super().__init__()
        self.pairs = pairs

    def forward(self, codes: Tensor) -> Tensor:
        return self.pairs(codes) / 2


class ThereAndBack(nn.Module):
    """Looks pairs up, and multiplies them by a matrix and by its transpose, each a tensor of its own."""

    def __init__(self, codebook: Tensor) -> None:
        super().__init__()
        self.register_buffer("vectors", codebook)
        self.there = nn.Parameter(torch.randn(5, 64).half().float())
        self.back = nn.Parameter(self.there.detach().T.contiguous())

    def forward(self, codes: Tensor) -> Tensor:
        assert isinstance(self.vectors, Tensor)
        return F.embedding(codes.long(), self.vectors) @ self.there @ self.back


class Written(NamedTuple):
    folder: Path
    modules: dict[str, nn.Module]
    protos: dict[str, onnx.ModelProto]
    codebook: Tensor


def graph(name: str, module: nn.Module) -> Graph:
    return Graph(
        operation=name,
        file=f"{name}.onnx",
        module=module,
        examples=(torch.zeros(2, 3, 4, dtype=torch.int32),),
        axes=({0: "n", 1: "h", 2: "2*w"},),
        inputs=(Input(name="codes", role=Role.codes),),
        outputs=(Output(name="images", role=Role.images),),
        description="",
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """``others`` has the codebook of ``pairs`` and other weights of the same names."""
    folder = tmp_path_factory.mktemp("graph")
    codebook = torch.randn(16, 5, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    pairs = Pairs(codebook)
    modules = {"pairs": pairs, "halved": Halved(pairs), "others": Pairs(codebook)}
    write_graphs([graph(*each) for each in modules.items()], folder, codebook)
    protos = {name: onnx.load(folder / f"{name}.onnx", load_external_data=False) for name in modules}
    return Written(folder, modules, protos, codebook)


def external(proto: onnx.ModelProto) -> list[tuple[TensorProto, dict[str, str]]]:
    """The tensors of a graph that are in other files, and where."""
    return [
        (tensor, {entry.key: entry.value for entry in tensor.external_data})
        for tensor in proto.graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
    ]


def test_the_codebook_is_a_tensor_that_anyone_can_read(written: Written) -> None:
    tensors = load_file(written.folder / CODEBOOK_FILE)
    assert tensors.keys() == {CODEBOOK_TENSOR}
    assert torch.equal(tensors[CODEBOOK_TENSOR], written.codebook)


def test_a_codebook_that_is_a_view_of_another_type_is_written_as_float32(tmp_path: Path) -> None:
    codebook = torch.randn(3, 8, dtype=torch.float64).T
    write_graphs([], tmp_path, codebook)
    (stored,) = load_file(tmp_path / CODEBOOK_FILE).values()
    assert torch.equal(stored, codebook.float())
    assert [path.name for path in tmp_path.iterdir()] == [CODEBOOK_FILE]


def test_weights_of_several_graphs_are_stored_once(written: Written) -> None:
    weights = load_file(written.folder / WEIGHTS_FILE)
    assert {name.partition(".")[0] for name in weights} == {"pairs", "others"}
    assert sum(tensor.numel() for tensor in weights.values()) == 2 * 5 * 64
    used = {name: {place["offset"] for _, place in external(proto)} for name, proto in written.protos.items()}
    assert used["pairs"] == used["halved"] != used["others"]


@pytest.mark.parametrize("name", ["pairs", "halved", "others"])
def test_a_graph_holds_no_copy_of_what_is_beside_it(written: Written, name: str) -> None:
    stored, found = (written.folder / f"{name}.onnx").read_bytes(), external(written.protos[name])
    assert {place["location"] for _, place in found} == {CODEBOOK_FILE, WEIGHTS_FILE}
    for tensor, place in found:
        assert tensor.raw_data == b""
        content, first = (written.folder / place["location"]).read_bytes(), int(place["offset"])
        assert first % 4 == 0
        values = np.frombuffer(content[first : first + int(place["length"])], np.float32)
        values = values.reshape(tuple(tensor.dims))
        assert values.tobytes() not in stored
        assert np.ascontiguousarray(values.T).tobytes() not in stored
        if place["location"] == CODEBOOK_FILE:
            assert np.array_equal(values, written.codebook.numpy())


def test_weights_that_float16_holds_are_stored_so_and_give_the_same(tmp_path: Path) -> None:
    codebook = torch.randn(16, 5, generator=torch.Generator().manual_seed(0))
    modules = {name: nn.Sequential(Pairs(codebook), nn.Linear(64, 32)) for name in ("rounded", "others")}
    for weight in modules["rounded"].parameters():
        weight.detach().copy_(weight.half())
    write_graphs([graph(*each) for each in modules.items()], tmp_path, codebook, half=True)
    stored = load_file(tmp_path / WEIGHTS_FILE)
    assert {name.partition(".")[0]: tensor.dtype for name, tensor in stored.items()} == {
        "rounded": torch.float16,
        "others": torch.float32,
    }
    (vectors,) = load_file(tmp_path / CODEBOOK_FILE).values()
    assert vectors.dtype == torch.float32
    codes = torch.arange(24, dtype=torch.int32).view(2, 3, 4) % 16
    for name, module in modules.items():
        (found,) = onnxruntime.InferenceSession(tmp_path / f"{name}.onnx").run(None, {"codes": codes.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), module(codes))


@pytest.mark.parametrize("half", [False, True])
def test_a_matrix_and_its_transpose_are_stored_once(tmp_path: Path, half: bool) -> None:
    torch.manual_seed(0)
    codebook = torch.randn(16, 5)
    module = ThereAndBack(codebook)
    write_graphs([graph("both", module)], tmp_path, codebook, half=half)
    assert [tensor.shape for tensor in load_file(tmp_path / WEIGHTS_FILE).values()] == [(5, 64)]
    codes = torch.arange(24, dtype=torch.int32).view(2, 3, 4) % 16
    (found,) = onnxruntime.InferenceSession(tmp_path / "both.onnx").run(None, {"codes": codes.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), module(codes))


def test_small_tensors_stay_in_the_graph(written: Written) -> None:
    found = {tensor.name for tensor, _ in external(written.protos["pairs"])}
    inside = [tensor for tensor in written.protos["pairs"].graph.initializer if tensor.name not in found]
    assert inside
    assert max(len(tensor.raw_data) for tensor in inside) < SMALLEST_BYTES


@pytest.mark.parametrize("name", ["pairs", "halved", "others"])
@pytest.mark.parametrize("shape", [(1, 1, 2), (3, 5, 8)])
def test_onnx_runtime_computes_the_same_at_any_allowed_size(
    written: Written, name: str, shape: tuple[int, int, int]
) -> None:
    session = onnxruntime.InferenceSession(
        str(written.folder / f"{name}.onnx"), providers=["CPUExecutionProvider"]
    )
    codes = np.random.default_rng(0).integers(0, 16, shape, dtype=np.int32)
    with torch.no_grad():
        expected = written.modules[name](torch.from_numpy(codes)).numpy()
    np.testing.assert_allclose(session.run(["images"], {"codes": codes})[0], expected, rtol=1e-5, atol=1e-6)


def test_the_axes_have_their_names(written: Written) -> None:
    axes = written.protos["pairs"].graph.input[0].type.tensor_type.shape.dim
    assert [axis.dim_param for axis in axes] == ["n", "h", "2*w"]


def test_the_graph_says_nothing_of_the_sources(written: Written) -> None:
    stored = (written.folder / "pairs.onnx").read_bytes()
    assert [
        text for text in (b".py", b"test_onnx_graph", b"site-packages", b"Traceback") if text in stored
    ] == []


def test_nothing_is_said_while_exporting(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, written: Written
) -> None:
    write_graphs([graph("pairs", written.modules["pairs"])], tmp_path)
    assert capfd.readouterr() == ("", "")
