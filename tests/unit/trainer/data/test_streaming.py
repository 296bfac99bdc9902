import multiprocessing
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from service.contract.cpu_count import available_cpus
from tests.fixtures.processes import ENVIRONMENT, PATIENCE, ROOT
from tests.unit.trainer.data.making import write_pictures
from trainer.data.batches import Batches, ResidentSplit
from trainer.data.loading import load
from trainer.data.sizing import ImageOptions
from trainer.data.streaming import StreamedSplit
from trainer.errors import DataError

AT_8 = ImageOptions(size=8)

KILLED = """
import os, signal, sys
from trainer.data.batches import Batches
from trainer.data.loading import load
from trainer.data.sizing import ImageOptions

batches = Batches(load(sys.argv[1], ImageOptions(size=8), resident_bytes=0).train, 4, workers=1)
next(batches.ordered())
print("reading", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def streamed(tmp_path: Path) -> StreamedSplit:
    split = load(str(write_pictures(tmp_path, 20)), AT_8, resident_bytes=0).train
    assert isinstance(split, StreamedSplit)
    return split


def test_some_images_can_be_taken(tmp_path: Path, streamed: StreamedSplit) -> None:
    held = load(str(tmp_path), AT_8).train
    assert isinstance(held, ResidentSplit)
    rows = torch.tensor([3, 0, 11])
    taken = streamed.take(rows)
    assert torch.equal(taken.images, held.take(rows).images)
    assert taken.labels is None
    assert held.take(rows).labels is None


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, min(2, available_cpus())])
def test_a_picture_that_goes_bad_later_ends_the_pass(
    tmp_path: Path, streamed: StreamedSplit, workers: int
) -> None:
    lost = tmp_path / streamed.pictures.name(int(streamed.rows[7]))
    with Batches(streamed, 4, workers=workers) as batches:
        assert len(list(batches.ordered())) == 5
        lost.unlink()
        expected = rf"^a picture that could be read at the start no longer can: {lost.name} \(no such file"
        with pytest.raises(DataError, match=expected):
            list(batches.ordered())
        with pytest.raises(DataError, match=expected):
            list(batches.ordered())


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, min(2, available_cpus())])
def test_a_pass_may_be_left_for_another(streamed: StreamedSplit, workers: int) -> None:
    with Batches(streamed, 4, workers=workers) as batches:
        expected = [batch.images for batch in batches.epoch(1)]
        left = batches.epoch(0)
        next(left)
        again = [batch.images for batch in batches.epoch(1)]
        assert len(again) == len(expected) == 4
        assert all(map(torch.equal, again, expected))
        with pytest.raises(RuntimeError, match="another pass"):
            next(left)


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_the_pass_in_one_line(streamed: StreamedSplit) -> None:
    before = multiprocessing.active_children()
    with Batches(streamed, 4, workers=1) as batches:
        read = batches.ordered()
        next(read)
        (worker,) = (each for each in multiprocessing.active_children() if each not in before)
        worker.kill()
        with pytest.raises(DataError, match=r"^a process that decodes pictures has ended, perhaps killed"):
            list(batches.ordered())


@pytest.mark.slow
def test_workers_end_with_a_trainer_that_is_killed(tmp_path: Path) -> None:
    write_pictures(tmp_path, 20)
    # They have its standard output open too, so that this ends when they have ended.
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        timeout=PATIENCE,
        check=False,
    )
    assert (killed.returncode, killed.stdout) == (-signal.SIGKILL, b"reading\n")


def test_closed_batches_give_no_more(streamed: StreamedSplit) -> None:
    with Batches(streamed, 4, workers=0) as batches:
        pass
    with pytest.raises(ValueError, match="closed"):
        next(batches.ordered())
