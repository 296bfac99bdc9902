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
from trainer.export.onnx_export import CODEBOOK_FILE, CODEBOOK_TENSOR, write_codebook, write_graph
from trainer.models.base import Graph

pytestmark = pytest.mark.slow


class Pairs(nn.Module):
    """The code vectors of each cell and of the one to its right, two and two, added."""

    def __init__(self, codebook: Tensor) -> None:
        super().__init__()
        self.register_buffer("vectors", codebook)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, codes: Tensor) -> Tensor:
        assert isinstance(self.vectors, Tensor)
        looked_up = F.embedding(codes.long(), self.vectors)
        return self.scale * (looked_up[:, :, 0::2] + looked_up[:, :, 1::2])


class Written(NamedTuple):
    folder: Path
    module: Pairs
    proto: onnx.ModelProto


def graph(module: nn.Module) -> Graph:
    return Graph(
        operation="pairs",
        file="pairs.onnx",
        module=module,
        examples=(torch.zeros(2, 3, 4, dtype=torch.int32),),
        axes=({0: "n", 1: "h", 2: "2*w"},),
        inputs=(Input(name="codes", role=Role.codes),),
        outputs=(Output(name="images", role=Role.images),),
        description="",
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("graph")
    codebook = torch.randn(16, 5, generator=torch.Generator().manual_seed(0))
    write_codebook(codebook, folder)
    module = Pairs(codebook)
    write_graph(graph(module), folder, "vectors")
    proto = onnx.load(folder / "pairs.onnx", load_external_data=False)
    return Written(folder, module, proto)


def test_the_codebook_is_a_tensor_that_anyone_can_read(written: Written) -> None:
    tensors = load_file(written.folder / CODEBOOK_FILE)
    assert tensors.keys() == {CODEBOOK_TENSOR}
    assert torch.equal(tensors[CODEBOOK_TENSOR], written.module.state_dict()["vectors"])


def test_a_codebook_that_is_a_view_of_another_type_is_written_as_float32(tmp_path: Path) -> None:
    codebook = torch.randn(3, 8, dtype=torch.float64).T
    write_codebook(codebook, tmp_path)
    (stored,) = load_file(tmp_path / CODEBOOK_FILE).values()
    assert torch.equal(stored, codebook.float())


def test_the_graph_takes_its_codebook_from_that_file(written: Written) -> None:
    external = [
        item for item in written.proto.graph.initializer if item.data_location == TensorProto.EXTERNAL
    ]
    assert [item.name for item in external] == ["vectors"]
    where = {entry.key: entry.value for entry in external[0].external_data}
    assert where["location"] == CODEBOOK_FILE
    content = (written.folder / CODEBOOK_FILE).read_bytes()
    start, length = int(where["offset"]), int(where["length"])
    values = np.frombuffer(content[start : start + length], dtype=np.float32).reshape(16, 5)
    assert np.array_equal(values, written.module.state_dict()["vectors"].numpy())


def test_the_graph_holds_no_copy_of_the_codebook(written: Written) -> None:
    values = written.module.state_dict()["vectors"].numpy()
    stored = (written.folder / "pairs.onnx").read_bytes()
    assert values.tobytes() not in stored
    assert np.ascontiguousarray(values.T).tobytes() not in stored


@pytest.mark.parametrize("shape", [(1, 1, 2), (3, 5, 8)])
def test_onnx_runtime_computes_the_same_at_any_allowed_size(
    written: Written, shape: tuple[int, int, int]
) -> None:
    session = onnxruntime.InferenceSession(
        str(written.folder / "pairs.onnx"), providers=["CPUExecutionProvider"]
    )
    codes = np.random.default_rng(0).integers(0, 16, shape, dtype=np.int32)
    with torch.no_grad():
        expected = written.module(torch.from_numpy(codes)).numpy()
    np.testing.assert_allclose(session.run(["images"], {"codes": codes})[0], expected, rtol=1e-6)


def test_the_axes_have_their_names(written: Written) -> None:
    axes = written.proto.graph.input[0].type.tensor_type.shape.dim
    assert [axis.dim_param for axis in axes] == ["n", "h", "2*w"]


def test_the_graph_says_nothing_of_the_sources(written: Written) -> None:
    stored = (written.folder / "pairs.onnx").read_bytes()
    assert [
        text for text in (b".py", b"test_onnx_graph", b"site-packages", b"Traceback") if text in stored
    ] == []


def test_nothing_is_said_while_exporting(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, written: Written
) -> None:
    write_graph(graph(written.module), tmp_path, None)
    assert capfd.readouterr() == ("", "")


def test_a_codebook_of_another_shape_is_refused(tmp_path: Path, written: Written) -> None:
    write_codebook(torch.zeros(16, 6), tmp_path)
    with pytest.raises(RuntimeError, match=r"does not fit the graph's \[16, 5\]"):
        write_graph(graph(written.module), tmp_path, "vectors")
