"""Requests of several callers in one batch of a model, and models that go."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from service.lanes import Lanes
from service.queued import Batch
from service.rows import Part, Results

from service import lanes as module
from service.errors import ShuttingDown
from service.manifest import Role
from service.models import Model

PATIENCE = 10.0
IMAGES = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)


class Watched:
    """Lanes whose first batch waits at a gate, so that others gather behind it; and what ran."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[list[int]] = []
        self.told: list[tuple[str, tuple[str, ...], Batch]] = []
        self.gate, self.begun = threading.Event(), threading.Event()
        run = Model.run_batch

        def watched(model: Model, chain: Any, parts: Sequence[Part], *more: Any) -> list[Results]:
            self.begun.set()
            assert self.gate.wait(PATIENCE)
            self.batches.append([len(part.items) for part in parts])
            return run(model, chain, parts, *more)

        monkeypatch.setattr(Model, "run_batch", watched)
        self.lanes = Lanes(observe=lambda *told: self.told.append((told[0].manifest.name, *told[1:])))


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


async def together(watched: Watched, *wanted: Any) -> list[Results]:
    """What comes out of the first, and of those that wait together behind it."""
    tasks = [asyncio.create_task(wanted[0])]
    assert await asyncio.to_thread(watched.begun.wait, PATIENCE)
    tasks += [asyncio.create_task(each) for each in wanted[1:]]
    await asyncio.sleep(0)
    watched.gate.set()
    results: list[Results] = await asyncio.gather(*tasks)
    assert watched.lanes.close(PATIENCE)
    return results


def encoded(model: Model, lanes: Lanes, rows: slice, seed: int, scale: float = 1) -> Any:
    given = {Role.images: IMAGES[rows]}
    return lanes.run(model, ("encode",), given, len(given[Role.images]), {"scale": scale}, seed)


def test_callers_of_one_batch_get_what_each_would_alone(watched: Watched, wandering: Model) -> None:
    """With noise of their own, by their own seeds."""
    wanted = [(slice(0, 1), 5), (slice(1, 4), 6), (slice(4, 6), 5), (slice(6, 9), 7)]

    async def main() -> list[Results]:
        return await together(
            watched, *(encoded(wandering, watched.lanes, rows, seed) for rows, seed in wanted)
        )

    results = asyncio.run(main())
    assert watched.batches == [[1], [3, 2, 3]]
    assert [(name, chain, batch.rows) for name, chain, batch in watched.told] == [
        ("wanderer", ("encode",), 1),
        ("wanderer", ("encode",), 8),
    ]
    for (rows, seed), result in zip(wanted, results, strict=True):
        count = rows.stop - rows.start
        alone = wandering.run(("encode",), {Role.images: IMAGES[rows]}, count, {"scale": 1}, seed)
        np.testing.assert_array_equal(result.arrays[Role.codes], alone.arrays[Role.codes])


def test_other_parameters_are_another_batch(watched: Watched, wandering: Model) -> None:
    async def main() -> None:
        scales = (1, 1, 2, 1, 2)
        await together(
            watched,
            *(encoded(wandering, watched.lanes, slice(0, 1), 1, scale) for scale in scales),
        )

    asyncio.run(main())
    assert watched.batches == [[1], [1, 1], [1, 1]]


def test_images_of_another_size_are_another_batch(watched: Watched, levels: Model) -> None:
    small, large = (np.zeros((1, side, 8, 1), np.uint8) for side in (8, 16))

    async def main() -> None:
        wanted = (small, small, large, small, large)
        await together(
            watched,
            *(watched.lanes.run(levels, ("encode",), {Role.images: each}, 1, {}) for each in wanted),
        )

    asyncio.run(main())
    assert watched.batches == [[1], [1, 1], [1, 1]]


def test_each_chain_of_each_model_has_a_lane(wandering: Model, levels: Model) -> None:
    lanes = Lanes(1)
    names = [
        lanes.lane(model, chain).name
        for model in (wandering, levels)
        for chain in (("encode",), ("encode", "decode"))
    ]
    assert names == [
        *("encode of wanderer", "encode+decode of wanderer"),
        *("encode of levels", "encode+decode of levels"),
    ]
    assert lanes.lane(levels, ("encode",)) is lanes.lane(levels, ("encode",))
    assert lanes.dead == []
    assert lanes.close(PATIENCE)


def test_who_holds_a_model_that_is_gone_is_answered(
    wandering: Model, levels: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GRACE", 0.3)
    lanes = Lanes(1)
    leaving, stays = lanes.lane(wandering, ("encode",)), lanes.lane(levels, ("decode",))
    lanes.keep([levels])
    results = asyncio.run(encoded(wandering, lanes, slice(0, 2), 1))
    assert len(results.arrays[Role.codes]) == 2
    # Also by a chain that none had asked for before.
    late = lanes.lane(wandering, ("encode", "decode"))
    assert leaving.join(PATIENCE)
    assert late.join(PATIENCE)
    assert not stays.join(0.01)
    assert lanes.close(PATIENCE)


def test_the_memory_of_a_model_that_is_gone_comes_back(
    load: Callable[..., Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GRACE", 0.0)
    lanes, model = Lanes(1), load("levels")
    lane = lanes.lane(model, ("decode",))
    kept = weakref.ref(model)
    lanes.keep([])
    assert lane.join(PATIENCE)
    del model, lane
    gc.collect()
    assert kept() is None


def test_closed_lanes_take_no_more(wandering: Model) -> None:
    lanes = Lanes(1)
    asyncio.run(encoded(wandering, lanes, slice(0, 1), 1))
    assert lanes.close(PATIENCE)
    with pytest.raises(ShuttingDown):
        asyncio.run(encoded(wandering, lanes, slice(0, 1), 1))
