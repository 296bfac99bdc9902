"""Three real processes, each with its share, against one with the whole."""

import multiprocessing
import os
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.unit.trainer.data.test_batches import numbered, rows
from trainer.data import distributed
from trainer.data.batches import Batches
from trainer.errors import ConfigError, LostProcessError
from trainer.models.base import Step
from trainer.models.gaussian.posterior import at_least
from trainer.training.tracking.metrics import EpochMetrics

PROCESSES = 3
PATIENCE = 120.0
CPU = torch.device("cpu")
TORCHRUN = {
    "WORLD_SIZE": "2",
    "RANK": "0",
    "LOCAL_RANK": "0",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


def most(counts: Tensor) -> dict[str, float]:
    return {"most": float(counts.max())}


def computed() -> dict[str, Any]:
    """What depends on shares, computed by a process of several or by one alone."""
    torch.manual_seed(0)
    found: dict[str, Any] = {}
    batches = Batches(numbered(20), 8, seed=1)
    found["epoch"] = [rows([batch]) for batch in batches.epoch(0)]
    found["shared"] = [rows([batch]) for batch in batches.shared()]
    own = torch.cat([batch.images.flatten(1)[:, :1] for batch in batches.shared()])
    found["put together"] = batches.put_together(own.short())
    with distributed.batch_of(8):
        mine = distributed.rows(8)
        whole = torch.arange(8.0)
        found["noise"] = distributed.gathered(distributed.normal(len(whole[mine]), 2))
        ones = torch.ones(len(whole[mine]), 2, requires_grad=True)
        dropped = distributed.dropout(ones, 0.5, training=True)
        found["dropout"] = distributed.gathered(dropped.detach())
        found["mean"] = distributed.mean(whole[mine].mean())
        found["even"] = distributed.total(distributed.even(whole[mine].sum()))
        divergence = torch.stack([whole[mine], whole[mine] / 10], dim=1).mean(dim=0)
        found["free bits"] = distributed.mean(at_least(1.0, divergence))
        metrics = EpochMetrics(most)
        for step in (1, 2):
            loss = whole[mine].mean() * step
            counts = torch.bincount(whole[mine].long() % 3, minlength=3).float()
            metrics.add(Step(loss, {"loss": loss}, counts, {"lowest": loss}))
        found["metrics"] = metrics.values()
        found["resumed metrics"] = EpochMetrics.restored(metrics.state(), CPU, most).values()
    found["summed"] = distributed.summed(float(distributed.is_first()), 0.0)
    found["highest"] = distributed.highest(7 if distributed.rank() == distributed.world_size() - 1 else 0)
    found["from first"] = distributed.from_first(lambda: f"made by {distributed.rank()}")
    return found


def work(rank: int, folder: Path) -> None:
    """What a process does; the last one then ends without a word."""
    torch.set_num_threads(1)
    meeting = f"file://{folder / 'meeting'}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=PROCESSES)
    found = computed()
    if rank < PROCESSES - 1:
        try:
            with distributed.lost_process_errors():
                distributed.total(torch.ones(1))
        except LostProcessError as error:
            found["lost"] = str(error)
    torch.save(found, folder / f"{rank}.pt")
    # At an orderly end, threads of gloo that still run would abort the process.
    os._exit(0)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process found."""
    folder = tmp_path_factory.mktemp("processes")
    # Torch is imported once, for seconds, and not by each process.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    processes = [context.Process(target=work, args=(rank, folder), daemon=True) for rank in range(PROCESSES)]
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join(PATIENCE)
        assert [process.exitcode for process in processes] == [0] * PROCESSES
    finally:
        for process in processes:
            process.kill()
            process.join()
    return [torch.load(folder / f"{rank}.pt") for rank in range(PROCESSES)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["put together", "noise", "dropout", "mean", "even", "free bits", "metrics", "resumed metrics", "summed"],
)
def test_all_find_what_one_alone_finds(results: list[dict[str, Any]], name: str) -> None:
    alone = computed()[name]
    for one in results:
        torch.testing.assert_close(one[name], alone)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["epoch", "shared"])
def test_the_shares_of_a_batch_are_the_batch(results: list[dict[str, Any]], name: str) -> None:
    # The last of the batches of 8, 8 and 4 too, which does not divide evenly.
    shares = zip(*(one[name] for one in results), strict=True)
    assert [list(chain(*parts)) for parts in shares] == computed()[name]


@pytest.mark.slow
def test_what_one_has_all_get(results: list[dict[str, Any]]) -> None:
    assert [one["highest"] for one in results] == [7] * PROCESSES
    assert [one["from first"] for one in results] == ["made by 0"] * PROCESSES


@pytest.mark.slow
def test_a_lost_process_is_an_error_that_says_so(results: list[dict[str, Any]]) -> None:
    for number, one in enumerate(results[:-1]):
        assert one["lost"].startswith(f"process {number} of 3 lost another one")


def test_alone_nothing_is_copied() -> None:
    values = torch.ones(2)
    assert distributed.total(values) is values
    assert distributed.mean(values) is values
    assert distributed.gathered(values) is values


def test_another_error_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="shapes"), distributed.lost_process_errors():
        raise RuntimeError("shapes differ")


def test_one_process_is_asked_for_without_torchrun() -> None:
    assert distributed.requested_world_size({}) == 1
    assert distributed.requested_world_size({"WORLD_SIZE": "1", "RANK": "0"}) == 1
    assert distributed.requested_world_size(TORCHRUN) == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"MASTER_ADDR": None}, "WORLD_SIZE is '2', but MASTER_ADDR is not set: start several .* torchrun"),
        ({"RANK": None, "LOCAL_RANK": None}, "RANK, LOCAL_RANK is not set"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two', but WORLD_SIZE is 'two'"),
    ],
)
def test_half_of_what_torchrun_sets_is_an_error(changes: dict[str, str | None], said: str) -> None:
    environment = {name: value for name, value in (TORCHRUN | changes).items() if value is not None}
    with pytest.raises(ConfigError, match=said):
        distributed.requested_world_size(environment)


def test_what_cannot_be_shared_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="2 processes cannot train on mps"):
        distributed.start("mps")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ConfigError, match="started 2 processes here, but torch finds 1 GPUs"):
        distributed.start("cuda")


def share(process: int, size: int, monkeypatch: pytest.MonkeyPatch) -> slice:
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    monkeypatch.setattr(distributed, "rank", lambda: process)
    return distributed.rows(size)


@pytest.mark.parametrize(("size", "sizes"), [(9, [3, 3, 3]), (8, [3, 3, 2]), (1, [1, 0, 0])])
def test_shares_differ_by_one_at_most(size: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Tensor] = [torch.arange(size)[share(process, size, monkeypatch)] for process in range(3)]
    assert torch.cat(found).tolist() == list(range(size))
    assert [len(each) for each in found] == sizes
