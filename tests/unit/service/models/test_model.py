from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from service.contract import noise
from service.contract.manifest import Role
from service.contract.runner import as_array
from service.errors import GraphFailed, UnknownOperation
from service.models.model import ServedModel
from tests.fixtures import toy_models

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 12, 8, 1), dtype=np.uint8)


def test_encode_and_decode_run_the_graphs(levels: ServedModel) -> None:
    codes = levels.run(levels.pipeline("encode"), {Role.images: IMAGES}, 7, {}).arrays[Role.codes]
    np.testing.assert_array_equal(codes, toy_models.levels(IMAGES))
    decoded = levels.run(levels.pipeline("decode"), {Role.codes: codes}, 7, {}).arrays[Role.images]
    np.testing.assert_array_equal(decoded, toy_models.pixels(codes))


def test_reconstruct_is_encode_then_decode(levels: ServedModel) -> None:
    assert levels.pipeline("reconstruct").names == ("encode", "decode")
    results = levels.run(levels.pipeline_of("encode", "decode"), {Role.images: IMAGES}, 7, {})
    np.testing.assert_array_equal(results.arrays[Role.codes], toy_models.levels(IMAGES))
    np.testing.assert_array_equal(results.arrays[Role.images], toy_models.pixels(toy_models.levels(IMAGES)))


@pytest.mark.parametrize(
    ("batching", "sizes"),
    [
        ({"rows": 3}, [3, 3, 1]),
        ({"pixels": 12 * 8 * 4}, [4, 3]),
        ({"pixels": 1}, [1] * 7),
        ({"rows": 100}, [7]),
    ],
)
def test_results_do_not_depend_on_batch_limits(
    load: Callable[..., ServedModel],
    levels: ServedModel,
    batching: dict[str, int],
    sizes: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = load("levels", **batching)
    encoder = small.sessions["encoder.onnx"]
    seen: list[int] = []
    run_encoder = encoder.run

    def run(feeds: Any, outputs: Any) -> Any:
        seen.append(len(feeds["images"]))
        return run_encoder(feeds, outputs)

    monkeypatch.setattr(encoder, "run", run)
    split = small.run(small.pipeline_of("encode", "decode"), {Role.images: IMAGES}, 7, {})
    whole = levels.run(levels.pipeline_of("encode", "decode"), {Role.images: IMAGES}, 7, {})
    for role, array in whole.arrays.items():
        np.testing.assert_array_equal(split.arrays[role], array)
    assert seen == sizes


def test_noise_does_not_depend_on_batch_limits(
    load: Callable[..., ServedModel], colours: ServedModel
) -> None:
    for names, values in (
        (("sample/prior",), {"temperature": 1.0}),
        (("sample/walk", "decode"), {"steps": 20}),
    ):
        given = {Role.label: np.arange(10) % 3}
        pipeline = colours.pipeline_of(*names)
        whole = colours.run(pipeline, given, 10, values, seed=5)
        split = load("colours", rows=3).run(pipeline, given, 10, values, seed=5)
        np.testing.assert_array_equal(whole.arrays[Role.images], split.arrays[Role.images])
        other = colours.run(pipeline, given, 10, values, seed=6)
        assert (whole.arrays[Role.images] != other.arrays[Role.images]).any()


def test_a_noise_axis_may_be_a_parameter(colours: ServedModel) -> None:
    codes = colours.run(colours.pipeline_of("sample/walk"), {}, 2, {"steps": 20}, seed=5).arrays[Role.codes]
    path = noise.uniform(5, range(2), noise.stream("sample/walk", "path"), (20, 3))
    np.testing.assert_allclose(codes, path.mean(axis=1), atol=1e-6)


def test_sampled_codes_are_decoded(colours: ServedModel) -> None:
    assert colours.pipeline("sample/prior").names == ("sample/prior",)
    assert colours.pipeline("sample/walk").names == ("sample/walk", "decode")


def test_an_operation_of_an_unknown_name_runs_by_its_roles(oddity: ServedModel) -> None:
    images = np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1)
    given = {Role.images: images, Role.label: np.array([0, 1])}
    results = oddity.run(oddity.pipeline("mix"), given, 2, {"times": 100}, seed=3)
    expected = images + np.array([0, 100]).reshape(2, 1, 1, 1)
    # The dice are in [0, 1), so they are lost when the graph rounds down.
    np.testing.assert_array_equal(results.arrays[Role.images], expected)
    np.testing.assert_array_equal(results.arrays[Role.codes], expected.reshape(2, 4))


def test_without_prior_the_first_method_of_the_manifest_is_the_default(colours: ServedModel) -> None:
    walk = colours.manifest.operations["sample/walk"]
    operations = {"encode": colours.manifest.operations["encode"], "sample/walk": walk, "sample/hop": walk}
    manifest = colours.manifest.model_copy(update={"operations": operations})
    model = replace(colours, bundle=replace(colours.bundle, manifest=manifest))
    assert model.methods == ["hop", "walk"]
    assert model.sampler(None) == "sample/walk"


def test_methods(colours: ServedModel, levels: ServedModel) -> None:
    assert colours.methods == ["prior", "walk"]
    assert colours.sampler(None) == "sample/prior"
    assert colours.sampler("walk") == "sample/walk"
    with pytest.raises(UnknownOperation, match="no method 'wlak'; did you mean 'walk'"):
        colours.sampler("wlak")
    with pytest.raises(UnknownOperation, match="'levels' cannot sample"):
        levels.sampler(None)
    with pytest.raises(UnknownOperation, match="'levels' cannot sample"):
        levels.sampler("prior")


def test_an_operation_the_model_lacks(oddity: ServedModel) -> None:
    with pytest.raises(
        UnknownOperation, match=r"no operation 'decode'; did you mean 'encode'.*; model 'oddity' has "
    ):
        oddity.pipeline("decode")
    with pytest.raises(UnknownOperation, match="'decode'"):
        oddity.pipeline("reconstruct")


def test_a_graph_that_loses_rows_is_noticed(oddity: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = oddity.sessions["encoder.onnx"]
    run = graph.run
    monkeypatch.setattr(
        graph, "run", lambda feeds, outputs: [as_array(value)[:1] for value in run(feeds, outputs)]
    )
    with pytest.raises(GraphFailed, match="gave 1 rows of codes for 2"):
        oddity.run(
            oddity.pipeline_of("encode"), {Role.images: np.zeros((2, 2, 2, 1), np.uint8)}, 2, {"spread": 0}
        )
