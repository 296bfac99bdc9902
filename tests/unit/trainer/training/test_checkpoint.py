from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import nn
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from trainer import durable
from trainer.errors import RunError
from trainer.training import checkpoint
from trainer.training.checkpoint import Position


class Training:
    """A model with its optimizer and averaged weights, three steps on."""

    def __init__(self, seed: int, *, width: int = 3, averaged: bool = True) -> None:
        torch.manual_seed(seed)
        self.model = nn.Linear(width, 2)
        self.optimizer = AdamW(self.model.parameters())
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.5)) if averaged else None
        for _ in range(3):
            self.step()

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.model(torch.randn(4, self.model.in_features)).square().sum().backward()
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.model)

    def save(self, folder: Path, position: Position = Position(1, 2, 3)) -> Path:  # noqa: B008 - frozen
        sums = {"steps": 2, "names": ["loss"], "sums": torch.tensor([1.5]), "counts": None}
        return checkpoint.save(folder, position, self.model, self.average, self.optimizer, sums)

    def load(self, folder: Path) -> tuple[Position, dict[str, object]]:
        return checkpoint.load(folder, self.model, self.average, self.optimizer)


def test_training_goes_on_as_if_it_had_not_been_left(tmp_path: Path) -> None:
    first = Training(seed=1)
    saved = first.save(tmp_path)
    first.step()
    second = Training(seed=2)
    position, sums = second.load(saved)
    second.step()
    assert position == Position(1, 2, 3)
    assert sums == {"steps": 2, "names": ["loss"], "sums": torch.tensor([1.5]), "counts": None}
    assert torch.equal(first.model.weight, second.model.weight)
    assert first.average is not None
    assert second.average is not None
    averages = [average.module.state_dict()["weight"] for average in (first.average, second.average)]
    assert torch.equal(*averages)


def test_the_weights_may_be_had_alone(tmp_path: Path) -> None:
    training = Training(seed=1)
    saved = training.save(tmp_path)
    plain, averaged = nn.Linear(3, 2), nn.Linear(3, 2)
    checkpoint.load_weights(saved, plain, averaged=False)
    checkpoint.load_weights(saved, averaged, averaged=True)
    assert training.average is not None
    assert torch.equal(plain.weight, training.model.weight)
    assert torch.equal(averaged.weight, training.average.module.state_dict()["weight"])
    assert not torch.equal(plain.weight, averaged.weight)


def test_without_averaging_there_are_no_averaged_weights(tmp_path: Path) -> None:
    saved = Training(seed=1, averaged=False).save(tmp_path)
    assert sorted(path.name for path in saved.iterdir()) == [
        "checkpoint.json",
        "model.safetensors",
        "state.pt",
    ]


def test_only_the_latest_are_kept(tmp_path: Path) -> None:
    training = Training(seed=1)
    for total in (5, 9, 100, 1000):
        training.save(tmp_path, Position(total=total))
    checkpoint.prune(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert [checkpoint.read_position(path).total for path in durable.checkpoints(tmp_path)] == [100, 1000]


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    training = Training(seed=1)
    training.save(tmp_path, Position(epoch=0, step=3, total=3))
    training.save(tmp_path, Position(epoch=1, step=0, total=3))
    assert [checkpoint.read_position(path).epoch for path in durable.checkpoints(tmp_path)] == [1]


@pytest.mark.parametrize("file", ["state.pt", "model.safetensors"])
def test_half_a_checkpoint_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    training = Training(seed=1)
    saved = training.save(tmp_path)
    opened = Path.open

    def open_full(path: Path, *options: Any, **more: Any) -> Any:
        return opened(Path("/dev/full") if path.name == file else path, *options, **more)

    def save_full(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    if file == "state.pt":
        monkeypatch.setattr(Path, "open", open_full)
    else:
        monkeypatch.setattr(checkpoint, "save_file", save_full)
    with pytest.raises(RunError, match=r"cannot write checkpoint .*step-00000009: .*No space left on device"):
        training.save(tmp_path, Position(total=9))
    assert list(tmp_path.iterdir()) == [saved]


@pytest.mark.parametrize("file", ["model.safetensors", "average.safetensors", "state.pt", "checkpoint.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "half", "garbage", "no values"])
def test_a_damaged_checkpoint_is_an_error_that_names_it(tmp_path: Path, file: str, damage: str) -> None:
    saved = Training(seed=1).save(tmp_path)
    content = (saved / file).read_bytes()
    if damage == "missing":
        (saved / file).unlink()
    else:
        rest = {"empty": b"", "half": content[: len(content) // 2], "garbage": b"no checkpoint" * 20}
        rest["no values"] = b"{}"
        (saved / file).write_bytes(rest[damage])
    with pytest.raises(RunError, match=saved.name):
        Training(seed=2).load(saved)


def test_a_checkpoint_of_another_model_is_an_error(tmp_path: Path) -> None:
    saved = Training(seed=1).save(tmp_path)
    with pytest.raises(RunError, match="does not fit this model"):
        Training(seed=1, width=5).load(saved)


def test_a_checkpoint_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    saved = Training(seed=1).save(tmp_path)
    torch.save({"optimizer": Path("/")}, saved / "state.pt")
    with pytest.raises(RunError, match="cannot be read"):
        Training(seed=2).load(saved)


def test_what_a_crash_left_of_others_is_put_away_by_the_next(tmp_path: Path) -> None:
    training = Training(seed=1)
    for total in (1, 2):
        training.save(tmp_path, Position(total=total))
    (tmp_path / "step-00000002").rename(tmp_path / ".step-00000002.old")
    (tmp_path / ".step-00000001").mkdir()
    assert [checkpoint.read_position(path).total for path in durable.checkpoints(tmp_path)] == [1, 2]
    training.load(durable.checkpoints(tmp_path)[-1])
    training.save(tmp_path, Position(total=3))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step-00000001", "step-00000002", "step-00000003"]


def test_a_checkpoint_of_a_device_that_is_not_here_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = Training(seed=1).save(tmp_path)
    load, asked = torch.load, list[object]()

    def noted(*arguments: Any, **named: Any) -> Any:
        asked.append(named.get("map_location"))
        return load(*arguments, **named)

    monkeypatch.setattr(torch, "load", noted)
    Training(seed=2).load(saved)
    assert asked == ["cpu"]


@pytest.mark.parametrize("there", [False, True])
def test_the_random_numbers_of_a_gpu_go_on_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    state, found = torch.tensor([1], dtype=torch.uint8), list[Any]()
    training = Training(seed=1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: state)
    monkeypatch.setattr(torch.cuda, "set_rng_state", found.append)
    saved = training.save(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    training.load(saved)
    assert found == ([state] if there else [])
