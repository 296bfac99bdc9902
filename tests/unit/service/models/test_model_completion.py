"""Completion: some codes are kept and the others sampled."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.contract.manifest import Manifest, Role
from service.errors import ModelRefused
from service.models.bundle import read_bundle
from service.models.model import BatchLimits, ServedModel
from service.models.validation import load_model
from service.runtime.session import Session
from tests.fixtures import bundle_builder, completion_model, toy_models
from tests.unit.service.conftest import CPU

CODES = np.random.default_rng(1).integers(0, 16, (7, 7, 7), dtype=np.int32)
MASK = np.random.default_rng(2).random((7, 7, 7)) < 0.4


def test_codes_under_the_mask_are_sampled_and_the_others_kept(quilt: ServedModel) -> None:
    given = {Role.codes: CODES, Role.mask: MASK, Role.label: np.zeros(7, np.int64)}
    results = quilt.run(quilt.pipeline("sample/prior"), given, 7, {"spread": 8}, seed=5)
    expected = np.where(MASK, completion_model.drawn(5, range(7)), CODES)
    np.testing.assert_array_equal(results.arrays[Role.codes], expected)
    np.testing.assert_array_equal(results.arrays[Role.images], toy_models.pixels(expected))


def test_without_a_mask_every_code_is_sampled(quilt: ServedModel) -> None:
    label = {Role.label: np.array([0, 1, 1])}
    results = quilt.run(quilt.pipeline("sample/prior"), label, 3, {"spread": 8}, seed=5)
    expected = completion_model.drawn(5, range(3)) + np.array([0, 1, 1]).reshape(3, 1, 1)
    np.testing.assert_array_equal(results.arrays[Role.codes], expected)
    # Inputs that the runner filled are not results.
    assert Role.mask not in results.arrays


def test_completions_do_not_depend_on_batch_limits(
    load: Callable[..., ServedModel], quilt: ServedModel
) -> None:
    images = np.random.default_rng(3).integers(0, 256, (7, 28, 28, 1), dtype=np.uint8)
    pipeline = quilt.pipeline_of("encode", "sample/prior", "decode")
    given = {Role.images: images, Role.mask: MASK, Role.label: np.arange(7) % 2}
    values = {"gain": 0.5, "spread": 8}
    whole = quilt.run(pipeline, given, 7, values, seed=5)
    split = load("patchwork", rows=3).run(pipeline, given, 7, values, seed=5)
    for role, array in whole.arrays.items():
        np.testing.assert_array_equal(split.arrays[role], array)
    kept = whole.arrays[Role.codes][~MASK]
    np.testing.assert_array_equal(kept, completion_model.encoded(images, 0.5)[~MASK])


def test_the_warm_up_of_a_sampler_masks_every_code(
    load: Callable[..., ServedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    masks: list[Any] = []
    run = Session.run

    def listen(graph: Session, feeds: Any, outputs: Any) -> Any:
        masks.extend(array for name, array in feeds.items() if name == "mask")
        return run(graph, feeds, outputs)

    monkeypatch.setattr(Session, "run", listen)
    load("patchwork")
    (mask,) = masks
    assert mask.shape == (1, 7, 7)
    assert mask.all()


def test_which_methods_complete(quilt: ServedModel, colours: ServedModel) -> None:
    assert quilt.methods == ["plain", "prior"]
    assert quilt.methods_that_take(Role.mask) == ["prior"]
    assert colours.methods_that_take(Role.mask) == []


def test_a_mask_is_boolean(tmp_path: Path) -> None:
    path = completion_model.write(tmp_path)
    manifest = Manifest.model_validate_json((path / "manifest.json").read_text()).model_dump(mode="json")
    given, mask, *_ = manifest["operations"]["sample/prior"]["inputs"]
    given["name"], mask["name"] = mask["name"], given["name"]
    bundle_builder.edit_manifest(path, operations=manifest["operations"])
    with pytest.raises(ModelRefused, match=r"'mask' is .*bool.* not .*int32"):
        load_model(read_bundle(path), CPU, BatchLimits())
