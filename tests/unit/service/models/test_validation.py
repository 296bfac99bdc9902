import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from service.contract.manifest import CodesSpec, ImageSpec, Input, Operation, Output, Role
from service.contract.measures import Precision
from service.errors import ModelRefused
from service.models import validation
from service.models.bundle import read_bundle
from service.models.model import BatchLimits, ServedModel
from service.models.validation import load_model
from service.runtime.beside_cpu import BesideCpu
from service.runtime.io_binding import Value
from service.runtime.providers import MEASURED, Provider
from service.runtime.session import Session
from tests.fixtures import bundle_builder, halved_model, toy_models
from tests.unit.service.conftest import CPU


def folder_with(tmp_path: Path, **changes: object) -> Path:
    """A bundle of 2 x 2 pixels whose manifest describes its one graph with ``changes``."""
    path = tmp_path / "wrong"
    path.mkdir()
    image: bundle_builder.Axes = ("n", 2, 2, 1)
    bundle_builder.write_graph(
        path / "g.onnx",
        [
            bundle_builder.node("Cast", ["images"], ["x"], to=1),
            bundle_builder.node("Reshape", ["x", "flat"], ["codes"]),
            bundle_builder.node("Identity", ["images"], ["same"]),
        ],
        {"images": ("uint8", image)},
        {"codes": ("float32", ("n", 4)), "same": ("uint8", image)},
        {"flat": np.array([-1, 4])},
    )
    operation = {
        "graph": "g.onnx",
        "inputs": (Input(name="images", role=Role.images),),
        "outputs": (Output(name="codes", role=Role.codes),),
    }
    bundle_builder.write_manifest(
        path,
        kind="wrong",
        image=changes.pop("image", ImageSpec(channels=1, height=2, width=2)),
        codes=changes.pop("codes", CodesSpec(dtype="float32", shape=(4,))),
        operations={changes.pop("name", "encode"): Operation.model_validate(operation | changes)},
    )
    return path


IMAGES_IN = Input(name="images", role=Role.images)
CODES_OUT = Output(name="codes", role=Role.codes)
CODES_IN = Input(name="codes", role=Role.codes)
MASK_IN = Input(name="mask", role=Role.mask)
TARGET_IN = Input(name="target", role=Role.target)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"inputs": (Input(name="image", role=Role.images),)},
            r"inputs \['images'\], the manifest says \['image'\]",
        ),
        (
            {"inputs": (IMAGES_IN, Input(name="more", role=Role.normal))},
            r"inputs \['images'\], the manifest says \['images', 'more'\]",
        ),
        (
            {"outputs": (Output(name="code", role=Role.codes),)},
            r"outputs \['codes', 'same'\], the manifest also says \['code'\]",
        ),
        ({"inputs": (Input(name="images", role=Role.codes),)}, "'encode' does not take images"),
        ({"outputs": (Output(name="same", role=Role.images),)}, "'encode' does not give codes"),
        ({"name": "sample/odd"}, "'sample/odd' takes images, which no request gives it"),
        (
            {"name": "sample/odd", "inputs": (CODES_IN,)},
            "'sample/odd' takes codes, which no request gives it",
        ),
        (
            {"name": "sample/odd", "inputs": (IMAGES_IN, CODES_IN, MASK_IN)},
            "'sample/odd' takes images, which no request gives it",
        ),
        (
            {
                "name": "sample/odd",
                "inputs": (CODES_IN, MASK_IN),
                "outputs": (Output(name="same", role=Role.images),),
            },
            "'sample/odd' takes a mask of codes and does not give codes",
        ),
        (
            {
                "name": "decode",
                "inputs": (CODES_IN, MASK_IN),
                "outputs": (Output(name="same", role=Role.images),),
            },
            "'decode' takes mask, which no request gives it",
        ),
        (
            {"name": "sample/odd", "inputs": (CODES_IN, MASK_IN, TARGET_IN)},
            "'sample/odd' takes a mask and a target",
        ),
        ({"inputs": (IMAGES_IN, CODES_IN, TARGET_IN)}, "'encode' takes codes, which no request gives it"),
        (
            {
                "name": "sample/odd",
                "inputs": (CODES_IN, TARGET_IN),
                "outputs": (Output(name="same", role=Role.images),),
            },
            "'sample/odd' takes a target of codes and does not give codes",
        ),
        (
            {"name": "sample/odd", "outputs": (Output(name="codes", role=Role.figure),)},
            "'sample/odd' is a sampler and gives neither codes nor images",
        ),
        ({"name": "score"}, "'score' does not give figure"),
        (
            {"name": "score", "outputs": (Output(name="codes", role=Role.figure),)},
            "'codes' is .*rank=2.* not .*rank=1",
        ),
        (
            {"name": "other", "outputs": (CODES_OUT, Output(name="same", role=Role.states))},
            "'same' is .*uint8.* not .*rank=3",
        ),
        ({"inputs": (IMAGES_IN, CODES_IN, MASK_IN)}, "'encode' takes codes, which no request gives it"),
        ({"outputs": (CODES_OUT, Output(name="same", role=Role.codes))}, "gives a role twice"),
        ({"outputs": (Output(name="same", role=Role.codes),)}, "'same' is .*uint8.* not .*float32"),
        (
            {"name": "other", "inputs": (Input(name="images", role=Role.normal),)},
            "'images' is .*uint8.* not .*float32",
        ),
        (
            {"codes": CodesSpec(dtype="int32", shape=(4,), codebook_size=9)},
            "'codes' is .*float32.* not .*int32",
        ),
        ({"codes": CodesSpec(dtype="float32", shape=(2, 2))}, "rank=2.* not .*rank=3"),
        ({"codes": CodesSpec(dtype="float32", shape=(5,))}, r"gives codes of shape \[1, 4\], not \[1, 5\]"),
        (
            {"image": ImageSpec(channels=1, height=2, width=3)},
            "'encode' fails on an image of",
        ),
        (
            {"image": ImageSpec(channels=1, height=4, width=4)},
            "'encode' fails on an image of",
        ),
    ],
)
def test_a_manifest_that_contradicts_its_graph(
    tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    bundle = read_bundle(folder_with(tmp_path, **changes))
    with pytest.raises(ModelRefused, match=reason):
        load_model(bundle, CPU, BatchLimits())


def test_the_helper_of_the_test_above_writes_a_valid_bundle(tmp_path: Path) -> None:
    assert load_model(read_bundle(folder_with(tmp_path)), CPU, BatchLimits()).manifest.name == "wrong"


def test_a_bundle_that_changes_while_it_loads_is_refused(tmp_path: Path) -> None:
    bundle = read_bundle(toy_models.write_levels(tmp_path))
    (tmp_path / "levels").rename(tmp_path / "old")
    toy_models.write_levels(tmp_path, tint=3)
    with pytest.raises(ModelRefused, match="changed while it was loaded"):
        load_model(bundle, CPU, BatchLimits())


def test_a_loaded_model_does_not_read_its_files_again(tmp_path: Path) -> None:
    path = toy_models.write_levels(tmp_path)
    model = load_model(read_bundle(path), CPU, BatchLimits())
    codes = np.arange(16, dtype=np.int32).reshape(1, 4, 4)
    decode = model.pipeline("decode")
    before = model.run(decode, {Role.codes: codes}, 1, {})
    for file in path.iterdir():
        # In place: a file that is mapped into memory would change there too.
        with file.open("r+b") as stream:
            stream.write(bytes(file.stat().st_size))
    after = model.run(decode, {Role.codes: codes}, 1, {})
    np.testing.assert_array_equal(after.arrays[Role.images], before.arrays[Role.images])


def decoded(model: ServedModel) -> NDArray[Any]:
    codes = {Role.codes: np.zeros((1, 2, 2), np.int32)}
    return model.run(model.pipeline("decode"), codes, 1, {}).arrays[Role.images]


def test_a_model_runs_in_half_precision_only_if_it_is_asked_for(tmp_path: Path) -> None:
    bundle = read_bundle(halved_model.write(tmp_path))
    plain, half = (
        load_model(bundle, replace(CPU, precision=precision), BatchLimits())
        for precision in get_args(Precision)[:2]
    )
    assert (plain.precision, half.precision) == ("32", "16")
    assert plain.precision_reason is half.precision_reason is None
    assert not np.array_equal(decoded(plain), decoded(half))


@pytest.mark.parametrize(
    ("content", "wanted", "reason"),
    [
        (None, "bf16", r"the model has no graphs in precision bf16$"),
        (
            b"no graph",
            "16",
            r"its graphs in precision 16 do not run on cpu: graph 'decoder.fp16.onnx' cannot",
        ),
        (
            halved_model.FOR_CUDA,
            "16",
            r"its graphs in precision 16 do not run on cpu: .*to find kernel for com.microsoft.GroupNorm",
        ),
    ],
)
def test_without_half_precision_a_model_runs_in_float32_and_says_why(
    tmp_path: Path,
    content: bytes | None,
    wanted: Precision,
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = load_model(
        read_bundle(halved_model.write(tmp_path, content)), replace(CPU, precision=wanted), BatchLimits()
    )
    assert model.precision == "32"
    assert re.match(reason, model.precision_reason or "")
    assert f"model levels runs in precision 32, not {wanted}: {model.precision_reason}" in caplog.text
    assert decoded(model).shape == (1, 8, 8, 1)


@pytest.mark.parametrize(
    ("captured", "expected"),
    [
        ({"encoder.onnx"}, {"encoder.onnx": [1, 1, 2, 4, 5], "decoder.onnx": [1]}),
        (
            {"encoder.onnx", "decoder.onnx"},
            {"encoder.onnx": [1, *[1, 2, 4, 5] * 2], "decoder.onnx": [1, *[1, 2, 4, 5] * 2]},
        ),
    ],
)
def test_where_runs_are_captured_every_padded_batch_runs_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, captured: set[str], expected: dict[str, list[int]]
) -> None:
    ran: dict[str, list[int]] = {}

    class Capturing(Session):
        def __init__(self, path: Path, *given: Any, **more: Any) -> None:
            super().__init__(path, *given, **more)
            self.captures = path.name in captured

        def run(self, feeds: Mapping[str, Value], outputs: Sequence[str]) -> Sequence[Value]:
            ran.setdefault(self.name, []).append(len(next(iter(feeds.values()))))
            return super().run(feeds, outputs)

    monkeypatch.setattr(validation, "Session", Capturing)
    load_model(read_bundle(toy_models.write_levels(tmp_path)), CPU, BatchLimits(rows=5))
    assert ran == expected


@pytest.mark.parametrize(("cpu_rows", "expected"), [(0, {}), (3, {"decoder.onnx": 3})])
def test_only_a_graph_that_cannot_be_captured_has_the_cpu_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpu_rows: int, expected: dict[str, int]
) -> None:
    class Here(Session):
        def __init__(self, path: Path, provider: Provider, *given: Any, **more: Any) -> None:
            super().__init__(path, CPU, *given, **more)
            self.captures = provider.captures and path.name == "encoder.onnx"

    monkeypatch.setattr(validation, "Session", Here)
    provider = Provider("cuda", "a test asks for it", 1, captures=True, cpu_rows=cpu_rows)
    model = load_model(read_bundle(toy_models.write_levels(tmp_path)), provider, BatchLimits(rows=5))
    beside = {name: each.cpu_rows for name, each in model.sessions.items() if isinstance(each, BesideCpu)}
    assert beside == expected


def test_the_rows_for_the_cpu_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Here(Session):
        def __init__(self, path: Path, _: Provider, *given: Any, **more: Any) -> None:
            super().__init__(path, CPU, *given, **more)

    def measure(self: BesideCpu, run: Callable[[int], object], most: int) -> None:
        run(most)
        self.cpu_rows = most

    monkeypatch.setattr(validation, "Session", Here)
    monkeypatch.setattr(BesideCpu, "measure", measure)
    provider = Provider("cuda", "a test asks for it", 1, captures=True, cpu_rows=MEASURED)
    model = load_model(read_bundle(toy_models.write_levels(tmp_path)), provider, BatchLimits(rows=5))
    assert [each.cpu_rows for each in model.sessions.values() if isinstance(each, BesideCpu)] == [5, 5]
