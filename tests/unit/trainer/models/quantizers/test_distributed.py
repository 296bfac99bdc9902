"""Two real processes, each with its share of every batch, against one with the whole."""

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from trainer.data import distributed
from trainer.models.quantizers.learned import LearnedCodebook, Update, drawn

pytestmark = pytest.mark.slow

PROCESSES = 2
PATIENCE = 60.0
STEPS = 5
# Of which the first process has three.
IMAGES = 5

State = dict[str, Tensor]
CASES: dict[str, dict[str, Any]] = {
    "ema": {"update": "ema"},
    "sphere": {"update": "ema", "normalise": True},
    "gradient": {"update": "gradient"},
    "restart": {"update": "ema", "restart_below": 0.9},
    "few rows": {"update": "ema", "restart_below": 0.9, "size": 50},
    "start": {"update": "ema", "start": True},
}


def batch(step: int) -> Tensor:
    return torch.randn(IMAGES, 3, 2, 4, generator=torch.Generator().manual_seed(step))


def learned(*, update: Update, start: bool = False, size: int = 12, **options: Any) -> LearnedCodebook:
    """A codebook after some steps on this process's share of each batch."""
    torch.manual_seed(0)
    made = LearnedCodebook(
        size, 3, update=update, decay=0.9, **{"restart_below": 0.0, "normalise": False, **options}
    )
    if start:
        rows = torch.cat([batch(step) for step in range(10)])
        made.start(rows.permute(0, 2, 3, 1).reshape(-1, 3), batch_rows=IMAGES * 8)
    for step in range(STEPS):
        with distributed.batch_of(IMAGES):
            made(batch(step)[distributed.rows(IMAGES)])
    return made


def state(codebook: LearnedCodebook) -> State:
    return {name: tensor.clone() for name, tensor in codebook.state_dict().items()}


def work(rank: int, folder: Path) -> None:
    """What a process does: all cases, one after the other."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=PROCESSES
    )
    results = {name: state(learned(**case)) for name, case in CASES.items()}
    rows = 10.0 * rank + torch.arange(4.0)[:, None]
    torch.manual_seed(0)
    results["drawn"] = {"rows": drawn(rows, 8), "again": drawn(rows, 10)}
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, State]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("processes")
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=work, args=(rank, folder), daemon=True) for rank in range(PROCESSES)]
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


@pytest.mark.parametrize("case", CASES)
def test_two_with_a_share_each_learn_what_one_learns_with_the_whole(
    results: list[dict[str, State]], case: str
) -> None:
    alone = state(learned(**CASES[case]))
    for one in results:
        for name, expected in alone.items():
            torch.testing.assert_close(one[case][name], expected)
    assert alone["uses"].sum() > 10


@pytest.mark.parametrize("case", CASES)
def test_all_have_the_same_codebook(results: list[dict[str, State]], case: str) -> None:
    first, second = (each[case] for each in results)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_restarts_change_the_codebook(results: list[dict[str, State]]) -> None:
    assert not torch.allclose(results[0]["restart"]["codebook"], results[0]["ema"]["codebook"])


def test_the_start_counts_the_rows_of_all(results: list[dict[str, State]]) -> None:
    # Moving averages of batches of 40 rows.
    torch.testing.assert_close(results[0]["start"]["uses"].sum(), torch.tensor(40.0))


def test_rows_are_drawn_from_all_and_each_once_until_all_are(results: list[dict[str, State]]) -> None:
    first, second = (one["drawn"] for one in results)
    assert torch.equal(first["rows"], second["rows"])
    assert torch.equal(first["again"], second["again"])
    everything = [*range(4), *range(10, 14)]
    assert sorted(first["rows"].flatten().tolist()) == everything
    assert set(first["again"].flatten().tolist()) == set(everything)


def test_alone_rows_are_drawn_once_each() -> None:
    assert sorted(drawn(torch.arange(4.0)[:, None], 4).flatten().tolist()) == [0, 1, 2, 3]
