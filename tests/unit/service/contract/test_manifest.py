import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from service.contract.manifest import (
    CodesSpec,
    File,
    ImageSpec,
    Input,
    Manifest,
    Operation,
    Output,
    Role,
    content_version,
)


@pytest.mark.parametrize("name", ["levels", "colours", "oddity", "patchwork", "wanderer"])
def test_a_manifest_survives_json(exported: Path, name: str) -> None:
    text = (exported / name / "manifest.json").read_text()
    manifest = Manifest.model_validate_json(text)
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 64), st.integers(1, 64), st.none() | st.integers(1, 16))
def test_the_native_size_is_always_allowed(height: int, width: int, step: int | None) -> None:
    if step is not None and (height % step or width % step):
        with pytest.raises(ValidationError, match="not a multiple"):
            ImageSpec(channels=1, height=height, width=width, multiple_of=step)
    else:
        spec = ImageSpec(channels=1, height=height, width=width, multiple_of=step)
        assert spec.allows(height, width)
        assert spec.allows(2 * height, width) == (step is not None)
        assert not spec.allows(0, width)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(st.characters(codec="ascii"), min_size=1, max_size=8), st.integers(0, 2**16)))
def test_the_version_depends_on_graphs_and_tensors_only(sizes: dict[str, int]) -> None:
    def files(**sizes: int) -> dict[str, File]:
        return {name: File(sha256=f"{size:064x}", size=size) for name, size in sizes.items()}

    graphs = files(**{f"{name}.onnx": size for name, size in sizes.items()})
    version = content_version(graphs)
    assert content_version(dict(reversed(graphs.items()))) == version
    assert content_version(graphs | files(**{"README.md": 1, "preview.png": 2})) == version
    assert content_version(graphs | files(**{"new file.safetensors": 3})) != version


def changed(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *folders, name = path.split(">")
    inner = document
    for folder in folders:
        inner = inner[folder]
    inner[name] = value
    return document


def half(graphs: dict[str, str]) -> dict[str, Any]:
    agreement = {"images": 1, "codes_equal": 1, "psnr_lost": 0, "within_one_level": 1}
    return {"16": {"graphs": graphs, "agreement": agreement}}


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("name", "../up", "name"),
        ("name", "Upper", "name"),
        ("version", "xyz", "version"),
        ("surprise", 1, "surprise"),
        ("operations>encode>graph", "/etc/encoder.onnx", "outside the model's folder"),
        ("operations>encode>graph", "../other/encoder.onnx", "outside the model's folder"),
        ("operations>encode>graph", "a\\b.onnx", "outside the model's folder"),
        ("operations>encode>graph", "missing.onnx", "not among the files"),
        ("operations>a b", {"graph": "encoder.onnx", "inputs": [], "outputs": []}, "operations"),
        ("files>../x", {"sha256": "0" * 64, "size": 1}, "outside the model's folder"),
        ("codebook>shape", [3, 2], "does not fit"),
        ("codebook>file", "other.safetensors", "not among the files"),
        ("codes>codebook_size", None, "need a codebook_size"),
        ("codes>shape", [7], "stride is for a grid"),
        ("codes>shape", [0, 7], "empty"),
        ("image>height", 27, "not a multiple"),
        ("image>height", 32, "with stride 4 do not belong to an image of 32x28"),
        ("codes>stride", 2, r"codes of shape \(7, 7\) with stride 2 do not belong to an image of 28x28"),
        ("precisions", half({"paint": "encoder.onnx"}), r"has unknown operations \['paint'\]"),
        ("precisions", half({"encode": "half.onnx"}), r"\['half.onnx'\] are not among the files"),
    ],
)
def test_contradictions_are_refused(exported: Path, path: str, value: Any, complaint: str) -> None:
    document = orjson.loads((exported / "levels" / "manifest.json").read_bytes())
    with pytest.raises(ValidationError, match=complaint):
        Manifest.model_validate(changed(document, path, value))


@pytest.mark.parametrize("default", [-1, 4, 10**30])
def test_a_default_label_is_a_class_or_none(exported: Path, default: int) -> None:
    document = orjson.loads((exported / "colours" / "manifest.json").read_bytes())
    inputs = document["operations"]["sample/prior"]["inputs"]
    (label,) = [each for each in inputs if each["role"] == "label"]
    label["default"] = default
    with pytest.raises(ValidationError, match="the default label is not in 0 to 3"):
        Manifest.model_validate(document)


def test_an_operation_declares_its_parameters_and_axes() -> None:
    output = {"name": "codes", "role": "codes"}
    with pytest.raises(ValidationError, match="parameter that is not declared"):
        Operation.model_validate(
            {"graph": "g.onnx", "inputs": [{"name": "t", "role": "parameter"}], "outputs": [output]}
        )
    with pytest.raises(ValidationError, match="not int64 parameters"):
        Operation.model_validate(
            {
                "graph": "g.onnx",
                "inputs": [{"name": "noise", "role": "normal", "shape": ["steps"]}],
                "outputs": [output],
            }
        )


def test_float_codes_have_no_codebook_size() -> None:
    with pytest.raises(ValidationError, match="float32 codes have none"):
        CodesSpec(dtype="float32", shape=(3,), codebook_size=4)


def an_operation(*inputs: Role, gives: tuple[Role, ...] = (Role.codes,)) -> Operation:
    return Operation(
        graph="g.onnx",
        inputs=tuple(Input(name=role, role=role) for role in inputs),
        outputs=tuple(Output.model_validate({"name": role, "role": role}) for role in gives),
    )


@pytest.mark.parametrize(
    ("inputs", "gives", "complaint"),
    [
        ((Role.mask,), (Role.codes,), "takes mask, but no codes"),
        ((Role.target,), (Role.codes,), "takes target, but no codes"),
        ((Role.codes, Role.fraction), (Role.codes,), "takes fraction, but no target"),
        ((Role.normal,), (Role.states, Role.images), "gives states, but no codes"),
        ((Role.figure,), (Role.codes,), "input 'figure' has the role figure, which is for outputs"),
        ((Role.states,), (Role.codes,), "which is for outputs"),
        ((Role.normal,), (Role.label,), "which is for inputs"),
    ],
)
def test_roles_that_do_not_fit_are_refused(
    inputs: tuple[Role, ...], gives: tuple[Role, ...], complaint: str
) -> None:
    with pytest.raises(ValidationError, match=complaint):
        an_operation(*inputs, gives=gives)


def test_roles_with_the_role_they_need() -> None:
    assert an_operation(Role.codes, Role.mask).takes(Role.mask)
    assert an_operation(Role.codes, Role.target, Role.fraction).takes(Role.fraction)
    assert an_operation(Role.normal, gives=(Role.codes, Role.states, Role.figure)).gives(Role.states)


@pytest.mark.parametrize(
    ("role", "more", "allowed"),
    [
        (Role.normal, {"default_seed": 3}, True),
        (Role.uniform, {"default_seed": 0}, True),
        (Role.label, {"default": 1}, True),
        (Role.label, {"default_seed": 1}, False),
        (Role.normal, {"default_seed": 3, "default": 0}, False),
        (Role.normal, {"default_seed": -1}, False),
    ],
)
def test_a_default_seed_is_for_noise_without_a_default(
    role: Role, more: dict[str, int], allowed: bool
) -> None:
    with nullcontext() if allowed else pytest.raises(ValidationError, match="default_seed"):
        Input(name="x", role=role, **more)  # type: ignore[arg-type]  # each of them is an integer


@pytest.mark.parametrize(
    ("role", "more", "expected"),
    [
        (Role.normal, {"default": 0}, True),
        (Role.uniform, {"default_seed": 0}, True),
        (Role.normal, {}, False),
        (Role.label, {"default": 0}, False),
    ],
)
def test_default_noise(role: Role, more: dict[str, int], expected: bool) -> None:
    assert Input(name="x", role=role, **more).has_default_noise == expected  # type: ignore[arg-type]  # as above


LATENTS = {"dtype": "float32", "shape": [7, 5, 4], "stride": 4}
NESTED = {"dtype": "int32", "shape": [7, 5, 4], "stride": 4, "codebook_size": 8}


@pytest.mark.parametrize(
    ("codes", "complaint"),
    [
        (LATENTS, None),
        (LATENTS | {"scaling": {"factor": 0.18, "shift": 0.1}}, None),
        ({"dtype": "int32", "shape": [32], "codebook_size": 8}, None),
        ({"dtype": "float32", "shape": [7, 5], "stride": 4}, "float32 codes of shape (7, 5)"),
        (NESTED, None),
        (NESTED | {"shape": [7, 5, 4, 2]}, "int32 codes of shape"),
        ({"dtype": "int32", "shape": [32], "codebook_size": 8, "stride": 4}, "stride is for a grid"),
        (
            {"dtype": "int32", "shape": [32], "codebook_size": 8, "scaling": {"factor": 1}},
            "scaling is for float32 codes",
        ),
        (LATENTS | {"scaling": {"factor": 0}}, "factor"),
    ],
)
def test_the_shapes_of_codes(codes: dict[str, Any], complaint: str | None) -> None:
    if complaint is None:
        CodesSpec.model_validate(codes)
    else:
        with pytest.raises(ValidationError, match=re.escape(complaint)):
            CodesSpec.model_validate(codes)


def test_latents_follow_the_size_of_the_image() -> None:
    spec = CodesSpec.model_validate(LATENTS)
    assert spec.shape_for(28, 20) == (7, 5, 4)
    assert spec.shape_for(16, 8) == (4, 2, 4)
    image = ImageSpec(channels=3, height=28, width=20, multiple_of=4)
    assert spec.row(Role.codes, image, any_size=True) == ("float32", (-1, -1, 4))


def test_grids_of_several_scales_are_levels_of_a_sequence() -> None:
    scales = {"dtype": "int32", "shape": [21], "codebook_size": 8, "level_grids": [1, 2, 4]}
    spec = CodesSpec.model_validate(scales)
    assert (spec.levels, spec.level_ends) == (3, (1, 5, 21))
    assert [spec.with_all_levels((length,)) for length in (1, 5, 21)] == 3 * [(21,)]
    assert [spec.with_all_levels(other) for other in ((4,), (0,), (5, 1))] == [(4,), (0,), (5, 1)]
    assert spec.row(Role.codes) == ("int32", (21,))
    assert spec.row(Role.codes, any_size=True) == ("int32", (-1,))
    for wrong in ({"level_grids": [1, 4]}, {"level_grids": [4, 2, 1]}, {"level_grids": [4]}):
        with pytest.raises(ValidationError, match="level_grids"):
            CodesSpec.model_validate(scales | wrong)


def test_residual_codes_have_levels() -> None:
    spec = CodesSpec.model_validate(NESTED)
    assert (spec.levels, CodesSpec.model_validate(LATENTS).levels) == (4, None)
    assert spec.shape_for(16, 8) == (4, 2, 4)
    for image in (None, ImageSpec(channels=3, height=28, width=20)):
        assert spec.row(Role.codes, image) == ("int32", (7, 5, 4))
        assert spec.row(Role.codes, image, any_size=True) == ("int32", (7, 5, -1))
    assert spec.with_all_levels((1, 2, 3)) == (1, 2, 4)
    for other in ((1, 2, 5), (1, 2, 0), (1, 2)):
        assert spec.with_all_levels(other) == other
