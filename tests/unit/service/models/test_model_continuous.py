"""Interpolation, Langevin chains, figures and default noise, by role."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from service.contract import noise
from service.contract.manifest import Role
from service.contract.runner import as_array
from service.errors import GraphFailed
from service.models.model import ServedModel
from tests.fixtures import continuous_model

IMAGES = np.random.default_rng(0).integers(1, 256, (5, 8, 8, 3), dtype=np.uint8)
MEANS = IMAGES.mean(axis=(1, 2)) / 255
ENDS = np.array([[0, 0, 0.5], [1, 0.5, 0.5]], np.float32)


def test_default_noise_is_used_where_it_is_asked_for(wandering: ServedModel) -> None:
    results = wandering.run(
        wandering.pipeline_of("encode"),
        {Role.images: IMAGES},
        5,
        {"scale": 1},
        seed=1,
        default_noise=("encode",),
    )
    np.testing.assert_allclose(results.arrays[Role.codes], MEANS, atol=1e-6)
    drawn = wandering.run(wandering.pipeline_of("encode"), {Role.images: IMAGES}, 5, {"scale": 1}, seed=1)
    expected = noise.normal(1, range(5), noise.stream("encode", "noise"), (3,)) * continuous_model.STRIDE
    np.testing.assert_allclose(drawn.arrays[Role.codes], MEANS + expected, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_between_two_codes(load: Callable[..., ServedModel], rows: int) -> None:
    fraction = np.linspace(0, 1, 5, dtype=np.float32)
    given = {
        Role.codes: ENDS[:1].repeat(5, axis=0),
        Role.target: ENDS[1:].repeat(5, axis=0),
        Role.fraction: fraction,
    }
    model = load("wanderer", rows=rows)
    points = model.run(model.pipeline_of("sample/between"), given, 5, {}).arrays[Role.codes]
    np.testing.assert_allclose(points, ENDS[0] + fraction[:, None] * (ENDS[1] - ENDS[0]), atol=1e-6)


@pytest.mark.parametrize(("every", "kept"), [(0, []), (1, [0, 1, 2, 3, 4, 5, 6]), (3, [2, 5]), (8, [])])
def test_the_states_of_a_chain(load: Callable[..., ServedModel], every: int, kept: list[int]) -> None:
    model = load("wanderer", rows=2)
    results = model.run(model.pipeline_of("sample/stroll"), {}, 5, {"steps": 7, "every": every}, seed=4)
    path = noise.normal(4, range(5), noise.stream("sample/stroll", "path"), (7, 3))
    sums = path.cumsum(axis=1) * continuous_model.STRIDE
    np.testing.assert_allclose(results.arrays[Role.states], sums[:, kept], atol=1e-5)
    np.testing.assert_allclose(results.arrays[Role.codes], sums[:, -1], atol=1e-5)
    np.testing.assert_allclose(results.figures["length"], np.abs(path).sum(axis=(1, 2)), rtol=1e-5)


def test_figures_by_name(wandering: ServedModel) -> None:
    results = wandering.run(wandering.pipeline_of("score"), {Role.images: IMAGES}, 5, {"samples": 6}, seed=2)
    assert results.figures.keys() == {"brightness", "logarithm", "spread"}
    np.testing.assert_allclose(results.figures["brightness"], IMAGES.mean(axis=(1, 2, 3)), rtol=1e-6)
    draws = noise.normal(2, range(5), noise.stream("score", "draws"), (6, 3))
    np.testing.assert_allclose(results.figures["spread"], np.square(draws).mean(axis=(1, 2)), rtol=1e-5)


@pytest.mark.parametrize(("samples", "sizes"), [(1, [5]), (2, [2, 2, 1]), (100, [1] * 5)])
def test_several_draws_per_image_make_batches_smaller(
    load: Callable[..., ServedModel], samples: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load("wanderer", pixels=5 * 64)
    graph, seen = model.sessions["score.onnx"], []
    run_graph = graph.run

    def run(feeds: Any, outputs: Any) -> Any:
        seen.append(len(feeds["images"]))
        return run_graph(feeds, outputs)

    monkeypatch.setattr(graph, "run", run)
    model.run(model.pipeline_of("score"), {Role.images: IMAGES}, 5, {"samples": samples})
    assert seen == sizes


def test_batches_whose_outputs_differ_in_shape(
    load: Callable[..., ServedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load("wanderer", rows=2)
    graph = model.sessions["stroll.onnx"]
    run_graph = graph.run

    def run(feeds: Any, outputs: Any) -> Any:
        codes, states, length = map(as_array, run_graph(feeds, outputs))
        return [codes, states[:, : len(codes)], length]

    monkeypatch.setattr(graph, "run", run)
    with pytest.raises(GraphFailed, match="differ in shape"):
        model.run(model.pipeline_of("sample/stroll"), {}, 3, {"steps": 7, "every": 1})
