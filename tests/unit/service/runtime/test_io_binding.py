"""Runs with IO binding, compared with plain runs on the CPU."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.contract.manifest import Role
from service.contract.runner import Arrays
from service.models.bundle import read_bundle
from service.models.model import BatchLimits, ServedModel
from service.models.validation import load_model
from service.runtime import io_binding
from service.runtime.io_binding import IOBinding, OrtTensor
from service.runtime.providers import CPU
from tests.fixtures import toy_models
from tests.fixtures.fake_cuda import StandIn

PROVIDER = StandIn("cuda", "a test asks for it", 1)
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def on_device(exported: Path) -> dict[str, ServedModel]:
    """The toy models, on a device."""
    names = ("levels", "colours", "oddity", "patchwork", "wanderer")
    return {name: load_model(read_bundle(exported / name), PROVIDER, BatchLimits(rows=16)) for name in names}


@pytest.fixture
def binding(tmp_path: Path) -> IOBinding:
    path = toy_models.write_levels(tmp_path) / "encoder.onnx"
    return IOBinding(ort.InferenceSession(path, providers=[CPU]), "cpu", captures=False)


def pictures(rows: int, side: int = 8) -> Any:
    """Images of whole levels, because rounding decides between two levels."""
    return toy_models.pixels(
        RNG.integers(
            0, toy_models.LEVELS, (rows, side // toy_models.PATCH, side // toy_models.PATCH), np.int32
        )
    )


def encoded(binding: IOBinding, images: Any) -> OrtTensor:
    (codes,) = binding.run({"images": images}, ["codes"])
    return codes


@pytest.mark.parametrize(
    ("name", "names", "roles", "values"),
    [
        ("levels", ("encode",), [Role.images], {}),
        ("levels", ("encode", "decode"), [Role.images], {}),
        ("colours", ("sample/prior",), [], {"temperature": 0.5}),
        ("colours", ("sample/walk", "decode"), [], {"steps": 7, "temperature": 1.0}),
        ("wanderer", ("sample/stroll", "decode"), [], {"steps": 5, "every": 1}),
        ("wanderer", ("sample/stroll", "decode"), [], {"steps": 5, "every": 2}),
        ("patchwork", ("sample/prior",), [], {"spread": 8}),
    ],
)
def test_a_pipeline_gives_the_same_results_as_on_the_cpu(
    on_device: dict[str, ServedModel],
    load: Any,
    name: str,
    names: tuple[str, ...],
    roles: list[Role],
    values: dict[str, float],
) -> None:
    there, here = on_device[name], load(name)
    pipeline = here.pipeline_of(*names)
    values = {**pipeline.defaults, **values}
    spec = here.manifest.image
    for rows in (1, 3, 16, 20, 3):
        given: Arrays = {
            role: RNG.integers(0, 256, (rows, spec.height, spec.width, spec.channels), dtype=np.uint8)
            for role in roles
        }
        if pipeline.label is not None:
            given = {**given, Role.label: np.zeros(rows, np.int64)}
        ours, theirs = (model.run(pipeline, given, rows, values, seed=5) for model in (there, here))
        assert ours.arrays.keys() == theirs.arrays.keys()
        for role, array in theirs.arrays.items():
            np.testing.assert_array_equal(ours.arrays[role], array)
        for figure, array in theirs.figures.items():
            np.testing.assert_array_equal(ours.figures[figure], array)


def test_rows_are_padded_and_buffers_reused(binding: IOBinding) -> None:
    first, second = pictures(3), pictures(4)
    codes = encoded(binding, first)
    assert (len(codes), codes.shape, codes.value.shape()) == (3, (3, 2, 2), [4, 2, 2])
    kept = codes.numpy()
    np.testing.assert_array_equal(kept, toy_models.levels(first))
    again = encoded(binding, second)
    assert again.value.data_ptr() == codes.value.data_ptr()
    np.testing.assert_array_equal(again.numpy(), toy_models.levels(second))
    np.testing.assert_array_equal(kept, toy_models.levels(first), "a copy does not change")


@dataclass
class Value:
    """An OrtValue that gives this array."""

    array: Any

    def numpy(self) -> Any:
        return self.array


@pytest.mark.parametrize(
    ("array", "rows", "is_copied"),
    [(np.arange(4), 4, False), (np.arange(4), 3, True), (np.arange(8)[:4], 4, True)],
    ids=["of a device", "of a device, padded", "a view of a buffer"],
)
def test_the_copy_that_a_device_gives_is_not_copied_again(array: Any, rows: int, is_copied: bool) -> None:
    found = OrtTensor(cast("ort.OrtValue", Value(array)), rows).numpy()
    np.testing.assert_array_equal(found, np.arange(rows))
    assert (found is not array) == is_copied
    assert np.shares_memory(found, array) != is_copied


def test_a_smaller_batch_has_no_rows_of_the_last(binding: IOBinding) -> None:
    encoded(binding, pictures(4))
    one = pictures(3)
    np.testing.assert_array_equal(encoded(binding, one).numpy(), toy_models.levels(one))


def test_device_tensors_are_passed_on_without_a_copy(binding: IOBinding, tmp_path: Path) -> None:
    path = toy_models.write_levels(tmp_path / "other") / "decoder.onnx"
    decoder = IOBinding(ort.InferenceSession(path, providers=[CPU]), "cpu", captures=False)
    for rows in (3, 3, 5, 3):
        images = pictures(rows)
        (decoded,) = decoder.run({"codes": encoded(binding, images)}, ["images"])
        np.testing.assert_array_equal(decoded.numpy(), toy_models.pixels(toy_models.levels(images)))


def test_the_number_of_buffer_sets_is_limited(binding: IOBinding, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(io_binding, "KEPT", 6)
    for side in range(4, 4 * 3 * io_binding.KEPT, 4):
        images = pictures(1, side)
        np.testing.assert_array_equal(encoded(binding, images).numpy(), toy_models.levels(images))
    assert len(binding._buffers) == io_binding.KEPT


def test_the_number_of_captured_runs_is_limited_and_each_has_its_own_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers: list[str] = []
    real = ort.RunOptions.add_run_config_entry

    def noted(options: ort.RunOptions, key: str, value: str) -> None:
        assert key == "gpu_graph_id"
        numbers.append(value)
        real(options, key, value)

    monkeypatch.setattr(ort.RunOptions, "add_run_config_entry", noted)
    monkeypatch.setattr(io_binding, "CAPTURED", 5)
    path = toy_models.write_levels(tmp_path) / "encoder.onnx"
    binding = IOBinding(ort.InferenceSession(path, providers=[CPU]), "cpu", captures=True)
    for side in (*range(4, 4 * (io_binding.CAPTURED + 3), 4), 4):
        encoded(binding, pictures(1, side))
    captured = [str(number) for number in range(1, io_binding.CAPTURED + 1)]
    assert numbers == [*captured, "-1", "-1"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12))
def test_any_order_of_sizes(binding: IOBinding, sizes: list[int]) -> None:
    # The examples share buffers, which makes the test harder.
    for rows in sizes:
        images = pictures(rows)
        np.testing.assert_array_equal(encoded(binding, images).numpy(), toy_models.levels(images))
