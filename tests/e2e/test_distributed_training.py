"""Two processes train as one does, one of them is killed, and ``torchrun`` interrupts both."""

import json
import re
import signal
import subprocess
from pathlib import Path

import pytest

from service.contract.manifest import FILE_NAME
from tests.fixtures.processes import PATIENCE, free_port, start
from tests.fixtures.tiny_models import flags, without_onnx
from tests.fixtures.trained_models import digits
from tests.fixtures.trainer_command import finished
from tests.fixtures.trainer_processes import TrainerProcess

TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "trainer")
# Of a batch of 31 the first process has 16 images.
TINY = {"limit": 124, "batch_size": 31, "prior_batch_size": 31, "kmeans_start": True, "restart_below": 0.1}
# From the second of its four steps on.
ADVERSARIAL = {
    "adversarial": 0.5,
    "adversarial_start": 1,
    "discriminator_width": 8,
    "discriminator_layers": 2,
}


def arguments(folder: Path, **changes: object) -> list[str]:
    places = f"--data={digits()}", f"--out={folder / 'runs'}", f"--export-to={folder / 'exported'}"
    return ["vqvae", *flags(**TINY | changes), *places]


def records(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_alike(folder: Path, other: Path, tolerance: float) -> None:
    here, there = records(folder), records(other)
    assert len(here) == len(there)
    for one, two in zip(here, there, strict=True):
        for name in one.keys() - {"seconds", "images_per_second"}:
            assert one[name] == pytest.approx(two[name], rel=tolerance), name


def until(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    assert any(line.startswith(text) for line in iter(process.stdout.readline, ""))


def two(folder: Path, *given: str) -> list[TrainerProcess]:
    """Two processes of one run, with the variables that torchrun gives them."""
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    common["MASTER_PORT"] = str(free_port())
    return [
        TrainerProcess(folder / rank, *given, prepare=no_graphs, **common, RANK=rank, LOCAL_RANK=rank)
        for rank in ("0", "1")
    ]


def no_graphs() -> None:
    """What is learned is compared, not its graphs: the first process exports as one alone does."""
    without_onnx(pytest.MonkeyPatch())


def test_two_processes_learn_and_publish_what_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    changes = {"epochs": 1, "prior_epochs": 1, **ADVERSARIAL}
    processes = two(tmp_path, *arguments(together, **changes))
    try:
        (code, output, errors), (second_code, silence, _) = (process.ended() for process in processes)
    finally:
        for process in processes:
            process.kill()
    assert code == second_code == 0, errors
    assert "\nprocesses: 2, " in f"\n{output}"
    assert output.count("run folder: ") == output.count("published ") == 1
    assert silence == ""
    assert (together / "exported" / "tiny" / FILE_NAME).exists()
    assert records(together / "runs" / "tiny")[0]["adversarial_weight"] > 0
    without_onnx(monkeypatch)
    finished(*arguments(alone, **changes))
    for stage in ("tiny", "tiny/prior"):
        assert_alike(together / "runs" / stage, alone / "runs" / stage, tolerance=1e-4)


def test_two_go_on_after_a_signal_and_one_alone_after_a_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "runs" / "tiny"
    resume = ["vqvae", "--resume", "--name=tiny", f"--out={tmp_path / 'runs'}"]
    training = start(*TORCHRUN, *arguments(tmp_path, epochs=100_000))
    try:
        until(training, "epoch 2/")
        # To torchrun, which hands it on to both.
        training.send_signal(signal.SIGTERM)
        _, errors = training.communicate(timeout=PATIENCE)
    finally:
        training.kill()
    assert training.returncode != 0
    assert errors.count("error: stopped in epoch ") == 1
    last = json.loads((sorted((run / "checkpoints").iterdir())[-1] / "checkpoint.json").read_text())
    processes = first, second = two(tmp_path, *resume)
    try:
        first.until(f"resuming {run} in epoch {last['epoch'] + 1}, step {last['step']}")
        first.until(f"epoch {last['epoch'] + 2}/")
        first.kill()
        code, _, errors = second.ended()
    finally:
        for process in processes:
            process.kill()
    assert code != 0
    assert "error: process 1 of 2 lost another one, " in errors
    assert "To go on: " in errors
    before = len(records(run))
    without_onnx(monkeypatch)
    output = finished(*resume, f"--epochs={before + 1}")
    # The last epoch may have been logged, and its checkpoint not yet written.
    assert re.search(rf"resuming {run} in epoch ({before}|{before + 1}), step 0", output)
    assert [record["epoch"] for record in records(run)] == list(range(1, before + 2))
