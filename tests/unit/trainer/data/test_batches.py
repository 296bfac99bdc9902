from pathlib import Path

import numpy as np
import pytest
import torch

from service.contract.cpu_count import available_cpus
from tests.unit.trainer.data.making import write_pictures
from trainer.data.batches import Batch, Batches, ResidentSplit
from trainer.data.loading import load
from trainer.data.sizing import ImageOptions


def numbered(count: int) -> ResidentSplit:
    """Images whose pixels, and labels, are their row."""
    rows = torch.arange(count)
    return ResidentSplit(rows.to(torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2).contiguous(), rows)


def rows(batches: list[Batch]) -> list[int]:
    assert all(batch.labels is not None for batch in batches)
    return [int(label) for batch in batches if batch.labels is not None for label in batch.labels]


def test_batches_hold_images_with_their_labels() -> None:
    for batch in Batches(numbered(20), 8).epoch(0):
        assert batch.images.shape == (8, 3, 2, 2)
        assert batch.images.dtype == torch.uint8
        assert batch.images.is_contiguous()
        assert batch.labels is not None
        assert batch.labels.dtype == torch.int64
        assert torch.equal(batch.images[:, 0, 0, 0], batch.labels.to(torch.uint8))


def test_an_epoch_is_whole_batches_of_different_images() -> None:
    batches = Batches(numbered(20), 8)
    epoch = rows(list(batches.epoch(0)))
    assert len(batches) == 2
    assert len(epoch) == len(set(epoch)) == 16


def test_the_order_follows_from_seed_and_epoch() -> None:
    first = rows(list(Batches(numbered(20), 4, seed=1).epoch(3)))
    assert first == rows(list(Batches(numbered(20), 4, seed=1).epoch(3)))
    assert first != rows(list(Batches(numbered(20), 4, seed=2).epoch(3)))
    assert first != rows(list(Batches(numbered(20), 4, seed=1).epoch(4)))
    assert first != sorted(first)


@pytest.mark.parametrize("start", range(6))
def test_a_resumed_epoch_is_the_rest_of_the_whole_one(start: int) -> None:
    batches = Batches(numbered(21), 4, seed=7)
    whole = rows(list(batches.epoch(2)))
    assert rows(list(batches.epoch(2, start_step=start))) == whole[4 * start :]


@pytest.mark.parametrize("start", [-1, 6])
def test_an_epoch_cannot_start_outside_itself(start: int) -> None:
    with pytest.raises(ValueError, match=f"has steps 0 to 5, not {start}"):
        Batches(numbered(21), 4).epoch(0, start_step=start)


def test_a_set_smaller_than_a_batch_is_one_batch() -> None:
    batches = Batches(numbered(5), 128)
    assert len(batches) == 1
    assert sorted(rows(list(batches.epoch(0)))) == list(range(5))


def test_an_ordered_pass_gives_every_image_once() -> None:
    sizes = [len(batch) for batch in Batches(numbered(10), 4).ordered()]
    assert sizes == [4, 4, 2]
    assert rows(list(Batches(numbered(10), 4).ordered())) == list(range(10))


def test_batches_need_room_for_an_image() -> None:
    with pytest.raises(ValueError, match="batch size 0"):
        Batches(numbered(10), 0)


def test_reading_draws_nothing_from_the_generators_of_the_training(tmp_path: Path) -> None:
    split = load(str(write_pictures(tmp_path, 6)), ImageOptions(size=8), resident_bytes=0).train
    torch_before, numpy_before = torch.get_rng_state(), repr(np.random.get_state())
    assert len(list(Batches(split, 2, workers=0).epoch(0))) == 2
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert repr(np.random.get_state()) == numpy_before


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, min(2, available_cpus())])
def test_streamed_batches_equal_resident_ones(tmp_path: Path, workers: int) -> None:
    for name in ("a", "b"):
        write_pictures(tmp_path / name, 12)
    (tmp_path / "a" / "005.png").write_bytes(b"broken")
    options = ImageOptions(size=6)
    resident = load(str(tmp_path), options, seed=3)
    streamed = load(str(tmp_path), options, seed=3, resident_bytes=0)
    assert streamed.skipped == resident.skipped
    assert [skipped.name for skipped in resident.skipped] == [str(Path("a", "005.png"))]
    with (
        Batches(resident.train, 4, seed=5) as held,
        Batches(streamed.train, 4, seed=5, workers=workers) as drawn,
    ):
        assert len(held) == len(drawn) == 5
        for passes in (
            (held.epoch(0), drawn.epoch(0)),
            (held.epoch(1, start_step=3), drawn.epoch(1, start_step=3)),
            (held.ordered(), drawn.ordered()),
        ):
            for one, other in zip(*passes, strict=True):
                assert torch.equal(one.images, other.images)
                assert one.labels is not None
                assert other.labels is not None
                assert torch.equal(one.labels, other.labels)
