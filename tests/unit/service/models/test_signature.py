import gc
import weakref
from dataclasses import replace
from pathlib import Path

import pytest

from service.contract.manifest import Role
from service.errors import NotReady, UnknownModel, UnknownOperation
from service.models.model import ServedModel
from service.models.registry import Registry
from service.models.signature import TensorSpec, find, names, signature
from tests.fixtures import toy_models
from tests.fixtures.bundle_builder import operation
from tests.unit.service.conftest import CPU


@pytest.fixture(scope="module")
def registry(exported: Path) -> Registry:
    registry = Registry([exported], CPU)
    registry.reload()
    return registry


def test_every_operation_has_a_name(levels: ServedModel, colours: ServedModel, oddity: ServedModel) -> None:
    assert names(levels) == {
        "levels": "encode",
        "levels:decode": "decode",
        "levels:encode": "encode",
        "levels:reconstruct": "reconstruct",
    }
    assert names(colours)["colours:sample:prior"] == "sample/prior"
    # It cannot decode, so it cannot reconstruct.
    assert list(names(oddity)) == ["oddity", "oddity:encode", "oddity:mix"]


def test_every_name_is_found(registry: Registry) -> None:
    for model in registry.models.values():
        for name, verb in names(model).items():
            assert find(registry, name) == (model, verb)
            assert find(registry, name, model.manifest.version) == (model, verb)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("levels:decod", "levels:decode"),
        ("wanderer:sample", None),
        ("wanderer:sample:betwen", "wanderer:sample:between"),
        ("levels:", None),
        ("levels:encode:", "levels:encode"),
        ("oddity:reconstruct", None),
    ],
)
def test_an_unknown_operation_is_refused_with_the_nearest_name(
    registry: Registry, name: str, near: str | None
) -> None:
    with pytest.raises(UnknownOperation) as caught:
        find(registry, name)
    assert caught.value.members["given"] == name
    if near:
        assert f"did you mean {near!r}" in caught.value.detail


def test_an_unknown_model(registry: Registry, tmp_path: Path) -> None:
    for name in ("levls:decode", ":decode", ""):
        with pytest.raises(UnknownModel):
            find(registry, name)
    with pytest.raises(NotReady):
        find(Registry([tmp_path], CPU), "levels")


def test_another_version_is_not_served(registry: Registry, levels: ServedModel) -> None:
    with pytest.raises(UnknownModel, match="not '1'") as caught:
        find(registry, "levels:decode", "1")
    assert caught.value.members["allowed"] == [levels.manifest.version]


def test_a_name_with_dots_is_unambiguous(tmp_path: Path) -> None:
    toy_models.write_levels(tmp_path, name="levels")
    toy_models.write_levels(tmp_path, name="levels.decode", tint=1.0)
    registry = Registry([tmp_path], CPU)
    registry.reload()
    dotted = registry.models["levels.decode"]
    assert find(registry, "levels.decode") == (dotted, "encode")
    assert find(registry, "levels:decode") == (registry.models["levels"], "decode")
    assert find(registry, "levels.decode:decode") == (dotted, "decode")


def test_images_of_any_size_to_codes_of_any_size(levels: ServedModel) -> None:
    found = signature(levels, "encode")
    assert found.inputs == (TensorSpec("images", Role.images, "uint8", (-1, -1, -1, 1)),)
    assert found.outputs == (TensorSpec("codes", Role.codes, "int32", (-1, -1, -1)),)
    assert not found.repeats
    assert signature(levels, "decode").inputs == found.outputs


def test_a_pipeline_has_the_outputs_of_all_its_operations(
    levels: ServedModel, wandering: ServedModel
) -> None:
    both = signature(levels, "reconstruct")
    assert [tensor.name for tensor in both.inputs] == ["images"]
    assert [tensor.name for tensor in both.outputs] == ["codes", "images"]
    stroll = signature(wandering, "sample/stroll")
    assert stroll.pipeline.names == ("sample/stroll", "decode")
    assert stroll.inputs == ()
    assert [(tensor.name, tensor.shape) for tensor in stroll.outputs] == [
        ("codes", (-1, 3)),
        ("states", (-1, -1, 3)),
        ("length", (-1,)),
        ("images", (-1, 8, 8, 3)),
    ]
    assert stroll.repeats


def test_a_completion_takes_its_own_grid_or_nothing(quilt: ServedModel) -> None:
    found = signature(quilt, "sample/prior")
    assert found.inputs == (
        TensorSpec("given", Role.codes, "int32", (-1, 7, 7), required=False),
        TensorSpec("mask", Role.mask, "bool", (-1, 7, 7), required=False),
        TensorSpec("label", Role.label, "int64", (-1,), required=False),
    )
    assert found.repeats


def test_an_interpolation_needs_both_ends(wandering: ServedModel) -> None:
    found = signature(wandering, "sample/between")
    assert {tensor.name: tensor.required for tensor in found.inputs} == {
        "codes": True,
        "target": True,
        "fraction": False,
    }
    assert [tensor.name for tensor in found.outputs] == ["point", "images"]
    assert found.repeats


def test_a_label_without_a_default_is_needed(colours: ServedModel, oddity: ServedModel) -> None:
    needed = signature(colours, "sample/prior").input(Role.label)
    assert needed is not None
    assert needed.required
    free = signature(oddity, "mix").input(Role.label)
    assert free is not None
    assert (free.name, free.required) == ("class", False)
    assert signature(colours, "sample/walk").input(Role.label) is None


def test_a_sampler_of_images_decodes_nothing(colours: ServedModel) -> None:
    found = signature(colours, "sample/prior")
    assert found.pipeline.names == ("sample/prior",)
    assert [tensor.name for tensor in found.outputs] == ["images", "codes"]


def test_of_outputs_with_equal_names_or_roles_the_last_counts(levels: ServedModel) -> None:
    operations = {
        **levels.manifest.operations,
        "sample/prior": operation("none.onnx", {"noise": Role.normal}, {"images": Role.codes}),
        "reconstruct": operation("none.onnx", {"images": Role.images}, {"first": Role.images}),
    }
    manifest = levels.manifest.model_copy(update={"operations": operations})
    model = replace(levels, bundle=replace(levels.bundle, manifest=manifest))
    drawn = signature(model, "sample/prior")
    assert drawn.pipeline.names == ("sample/prior", "decode")
    assert [(tensor.name, tensor.role) for tensor in drawn.outputs] == [("images", Role.images)]
    own = signature(model, "reconstruct")
    assert [(tensor.name, tensor.role) for tensor in own.outputs] == [("first", Role.images)]


@pytest.mark.slow
def test_the_signatures_of_a_removed_model_are_freed(levels: ServedModel) -> None:
    model = replace(levels)
    assert signature(model, "encode") is signature(model, "encode")
    assert signature(model, "encode") is not signature(levels, "encode")
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
