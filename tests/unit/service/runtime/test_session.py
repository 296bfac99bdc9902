"""Sessions: loaded, refused, run."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from service.contract.runner import as_array
from service.errors import GraphFailed, ModelRefused
from service.runtime.providers import CPU as CPU_PROVIDER
from service.runtime.providers import Execution, Provider
from service.runtime.session import Session, TensorType
from tests.fixtures import toy_models
from tests.fixtures.bundle_builder import CODEBOOK_FILE
from tests.fixtures.fake_cuda import StandIn
from tests.unit.service.conftest import CPU


def test_a_session_on_another_provider_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = toy_models.write_levels(tmp_path)
    real = ort.InferenceSession
    monkeypatch.setattr(
        ort, "InferenceSession", lambda path, options, **_: real(path, options, providers=[CPU_PROVIDER])
    )
    with pytest.raises(ModelRefused, match="does not run on cuda"):
        Session(path / "encoder.onnx", Provider("cuda", "", 1))


def test_a_session_knows_its_tensor_types_and_runs(tmp_path: Path) -> None:
    graph = Session(toy_models.write_levels(tmp_path) / "encoder.onnx", CPU)
    assert graph.inputs == {"images": TensorType("uint8", 4)}
    assert graph.outputs == {"codes": TensorType("int32", 3)}
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 12, 1), dtype=np.uint8)
    (codes,) = graph.run({"images": images}, ["codes"])
    np.testing.assert_array_equal(codes, toy_models.levels(images))


def test_only_the_log_has_the_error_of_onnx_runtime(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    graph = Session(toy_models.write_levels(tmp_path) / "decoder.onnx", CPU)
    with pytest.raises(GraphFailed) as caught:
        graph.run({"codes": np.full((1, 2, 2), 99, np.int32)}, ["images"])
    assert "indices" in caplog.text
    assert "indices" not in caught.value.detail


@pytest.mark.parametrize("content", [b"", b"no graph"])
def test_a_file_that_is_not_a_graph(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "g.onnx").write_bytes(content)
    with pytest.raises(ModelRefused, match=r"graph 'g.onnx' cannot be loaded") as caught:
        Session(tmp_path / "g.onnx", CPU)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("location", ["../secret.bin", "{outside}"])
def test_a_graph_cannot_read_outside_its_folder(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(toy_models.VECTORS.tobytes())
    path = toy_models.write_levels(tmp_path)
    model = onnx.load(path / "decoder.onnx", load_external_data=False)
    (vectors,) = (item for item in model.graph.initializer if item.name == "vectors")
    vectors.ClearField("external_data")
    vectors.external_data.add(key="location", value=location.format(outside=tmp_path / "secret.bin"))
    (path / "decoder.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelRefused, match="cannot be loaded"):
        Session(path / "decoder.onnx", CPU)


def test_a_graph_with_given_files_reads_no_other_in_its_folder(tmp_path: Path) -> None:
    path = toy_models.write_levels(tmp_path)
    content = (path / CODEBOOK_FILE).read_bytes()
    with pytest.raises(ModelRefused, match=f"External file: {CODEBOOK_FILE} not found"):
        Session(path / "decoder.onnx", CPU, {"weights.safetensors": content})
    (path / CODEBOOK_FILE).unlink()
    graph = Session(path / "decoder.onnx", CPU, {CODEBOOK_FILE: content})
    (images,) = graph.run({"codes": np.full((1, 2, 2), 15, np.int32)}, ["images"])
    assert np.unique(as_array(images)) == [255]


def test_external_data_past_the_end_of_its_file_is_refused(tmp_path: Path) -> None:
    path = toy_models.write_levels(tmp_path)
    content = (path / CODEBOOK_FILE).read_bytes()
    with pytest.raises(ModelRefused, match="out of bounds"):
        Session(path / "decoder.onnx", CPU, {CODEBOOK_FILE: content[:-4]})


def test_a_graph_that_cannot_be_captured_runs_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    real = ort.InferenceSession

    def session(path: Path, options: ort.SessionOptions, providers: list[object], **_: int) -> object:
        asked.append(providers)
        if len(asked) == 1:
            raise RuntimeError("This session cannot use the graph capture feature")
        return real(path, options, providers=[CPU_PROVIDER])

    monkeypatch.setattr(ort, "InferenceSession", session)
    provider = StandIn("cuda", "a test asks for it", 1, captures=True)
    graph = Session(toy_models.write_levels(tmp_path) / "encoder.onnx", provider)
    assert asked == [provider.execution(capturing=captures) for captures in (True, False)]
    images = np.full((3, 8, 8, 1), 255, np.uint8)
    (codes,) = graph.run({"images": images}, ["codes"])
    np.testing.assert_array_equal(as_array(codes), toy_models.levels(images))


def test_a_graph_in_half_precision_has_channels_last_where_it_loads_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def session(path: Path, options: ort.SessionOptions, providers: Execution, **_: int) -> object:
        given = providers[0][1]
        asked.append((given["enable_cuda_graph"], given.get("prefer_nhwc", "0")))
        raise RuntimeError("no")

    monkeypatch.setattr(ort, "InferenceSession", session)
    path = toy_models.write_levels(tmp_path) / "encoder.onnx"
    for provider in (Provider("cuda", "", 1, captures=True), Provider("cuda", "", 1)):
        with pytest.raises(ModelRefused):
            Session(path, provider, half=True)
    with pytest.raises(ModelRefused):
        Session(path, Provider("cuda", "", 1))
    assert asked == [("1", "1"), ("1", "0"), ("0", "1"), ("0", "0"), ("0", "1"), ("0", "0"), ("0", "0")]
