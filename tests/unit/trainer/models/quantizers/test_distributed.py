"""Two real processes, each with half of every batch, against one with the whole."""

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from trainer.models.quantizers.learned import LearnedCodebook, Update, drawn, total

pytestmark = pytest.mark.slow

PROCESSES = 2
PATIENCE = 60.0
STEPS = 5

State = dict[str, Tensor]
CASES: dict[str, dict[str, Any]] = {
    "ema": {"update": "ema"},
    "sphere": {"update": "ema", "normalise": True},
    "gradient": {"update": "gradient"},
    "restart": {"update": "ema", "restart_below": 0.9},
    "few rows": {"update": "ema", "restart_below": 0.9, "size": 50},
}


def batch(step: int) -> Tensor:
    return torch.randn(4, 3, 2, 4, generator=torch.Generator().manual_seed(step))


def learned(
    *, update: Update, start: bool = False, part: slice, size: int = 12, **options: Any
) -> LearnedCodebook:
    """A codebook after some steps on a part of each batch."""
    torch.manual_seed(0)
    made = LearnedCodebook(
        size, 3, update=update, decay=0.9, **{"restart_below": 0.0, "normalise": False, **options}
    )
    # From here on the processes draw different numbers, as those of a real run may.
    torch.manual_seed(part.start)
    if start:
        rows = torch.cat([batch(step)[part] for step in range(10)])
        made.start(rows.permute(0, 2, 3, 1).reshape(-1, 3), batch_rows=len(batch(0)[part]) * 8)
    for step in range(STEPS):
        made(batch(step)[part])
    return made


def state(codebook: LearnedCodebook) -> State:
    return {name: tensor.clone() for name, tensor in codebook.state_dict().items()}


def work(rank: int, folder: Path) -> None:
    """What a process does: all cases, one after the other."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=PROCESSES
    )
    part = slice(2 * rank, 2 * rank + 2)
    results: dict[str, Any] = {name: state(learned(part=part, **case)) for name, case in CASES.items()}
    results["start"] = state(learned(part=part, update="ema", start=True))
    given = torch.full((3,), float(rank + 1))
    results["total"] = {"sum": total(given), "given": given}
    rows = 10.0 * rank + torch.arange(4.0)[:, None]
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


@pytest.mark.slow
@pytest.mark.parametrize("case", ["ema", "sphere", "gradient"])
def test_two_with_half_a_batch_each_learn_what_one_learns_with_the_whole(
    results: list[dict[str, State]], case: str
) -> None:
    alone = state(learned(part=slice(0, 4), **CASES[case]))
    for one in results:
        for name, expected in alone.items():
            torch.testing.assert_close(one[case][name], expected)
    assert alone["uses"].sum() > 10


@pytest.mark.parametrize("case", [*CASES, "start"])
def test_all_have_the_same_codebook(results: list[dict[str, State]], case: str) -> None:
    first, second = (each[case] for each in results)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_restarts_change_the_codebook(results: list[dict[str, State]]) -> None:
    assert not torch.allclose(results[0]["restart"]["codebook"], results[0]["ema"]["codebook"])


def test_the_start_counts_the_rows_of_all(results: list[dict[str, State]]) -> None:
    # Two batches of 16 rows, and moving averages of such batches.
    torch.testing.assert_close(results[0]["start"]["uses"].sum(), torch.tensor(32.0))


def test_a_total_is_the_sum_of_what_all_give_and_leaves_that_alone(results: list[dict[str, State]]) -> None:
    for rank, one in enumerate(results):
        assert one["total"]["sum"].tolist() == [3, 3, 3]
        assert one["total"]["given"].tolist() == [rank + 1] * 3


def test_rows_are_drawn_from_all_and_each_once_until_all_are(results: list[dict[str, State]]) -> None:
    first, second = (one["drawn"] for one in results)
    assert torch.equal(first["rows"], second["rows"])
    assert torch.equal(first["again"], second["again"])
    everything = [*range(4), *range(10, 14)]
    assert sorted(first["rows"].flatten().tolist()) == everything
    assert set(first["again"].flatten().tolist()) == set(everything)


def test_alone_a_total_is_the_tensor_itself() -> None:
    values = torch.ones(2)
    assert total(values) is values
    assert sorted(drawn(torch.arange(4.0)[:, None], 4).flatten().tolist()) == [0, 1, 2, 3]
