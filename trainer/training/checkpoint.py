"""Checkpoints: all that an interrupted run needs to continue to the same result.

    step-00000469/
      model.safetensors     weights and buffers
      average.safetensors   averaged weights, where the run averages them
      state.pt              optimizer, random generators, sums of the epoch under way, guard of an opponent
      checkpoint.json       position

A checkpoint is written to another folder, synced and renamed, so there is never half of one. It may come from
another device: its tensors are loaded to the device of the model and the optimizer.
"""

import json
import pickle
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from trainer import durable
from trainer.data import distributed
from trainer.errors import RunError, shortened
from trainer.training.guard import Guard

WEIGHTS, AVERAGE = "model.safetensors", "average.safetensors"
# Characters of a reason that a message shows: torch lists every tensor that does not fit.
MOST_REASON = 300


@dataclass(frozen=True)
class Position:
    """The position of a run: ``step`` steps of epoch ``epoch``, from 0, are done; ``total`` in all epochs."""

    epoch: int = 0
    step: int = 0
    total: int = 0


def save(
    folder: Path,
    position: Position,
    model: nn.Module,
    average: AveragedModel | None,
    optimizer: Optimizer,
    sums: dict[str, Any],
    guard: Guard | None = None,
) -> Path:
    """Write a checkpoint into ``folder``, the checkpoints of a run; returns its own folder."""
    target = folder / f"step-{position.total:08d}"
    with durable.file_errors(RunError, f"cannot write checkpoint {target}"):
        durable.tidy(folder, durable.CHECKPOINTS)
        with durable.written(target) as unfinished:
            _save_result(unfinished, position, model)
            if average is not None:
                save_weights(average.module, unfinished / AVERAGE)
            state = {"optimizer": optimizer.state_dict(), "random": _random_state(), "sums": sums}
            if guard is not None:
                state["guard"] = guard.state_dict()
            _save_state(state, unfinished / "state.pt")
    return target


def share_random_state() -> None:
    """Set the random generators of all processes to the state of those of the first; all must call it."""
    if distributed.world_size() > 1:
        _restore_random_state(distributed.from_first(_random_state))


def save_result(target: Path, position: Position, model: nn.Module) -> None:
    """Write only the weights and the position: enough to load a model, not to resume a run."""
    with (
        durable.file_errors(RunError, f"cannot write {target}"),
        durable.written(target) as unfinished,
    ):
        _save_result(unfinished, position, model)


def _save_result(folder: Path, position: Position, model: nn.Module) -> None:
    save_weights(model, folder / WEIGHTS)
    (folder / "checkpoint.json").write_text(json.dumps(asdict(position)) + "\n")


def _save_state(state: dict[str, Any], file: Path) -> None:
    try:
        with file.open("wb") as opened:
            torch.save(state, opened)
    except RuntimeError as error:
        # torch says only that the file has another size than it should.
        raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def load(
    checkpoint: Path,
    model: nn.Module,
    average: AveragedModel | None,
    optimizer: Optimizer,
    guard: Guard | None = None,
) -> tuple[Position, dict[str, Any]]:
    """Restore a run from a checkpoint, random generators included; returns its position and sums."""
    position = read_position(checkpoint)
    try:
        load_weights(checkpoint, model, averaged=False)
        if average is not None:
            load_weights(checkpoint, average.module, averaged=True)
            average.n_averaged.fill_(position.total)
        state = torch.load(checkpoint / "state.pt", map_location="cpu", weights_only=True)
        optimizer.load_state_dict(state["optimizer"])
        if guard is not None:
            guard.load_state_dict(state["guard"])
        _restore_random_state(state["random"])
        sums = state["sums"]
    except pickle.UnpicklingError as error:  # with advice about torch.load
        raise RunError(f"checkpoint {checkpoint} cannot be read: its state.pt is damaged") from error
    except (OSError, EOFError, ValueError, RuntimeError, KeyError) as error:
        raise RunError(f"checkpoint {checkpoint} cannot be read: {shortened(error, MOST_REASON)}") from error
    return position, sums


def save_weights(model: nn.Module, file: Path) -> None:
    """Write weights and buffers as safetensors."""
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, file)


def load_weights(checkpoint: Path, model: nn.Module, *, averaged: bool) -> None:
    """Load only the weights of a checkpoint: the averaged ones, or those of the last step."""
    file = checkpoint / (AVERAGE if averaged else WEIGHTS)
    try:
        model.load_state_dict(load_file(file))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        said = shortened(error, MOST_REASON)
        raise RunError(f"checkpoint {checkpoint} does not fit this model: {said}") from error


def read_position(checkpoint: Path) -> Position:
    """The position of a checkpoint. Raises RunError if it cannot be read."""
    try:
        values = json.loads((checkpoint / "checkpoint.json").read_text())
        return Position(**{each.name: int(values[each.name]) for each in fields(Position)})
    except OSError as error:
        raise RunError(f"checkpoint {checkpoint} cannot be read: {error}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise RunError(f"checkpoint {checkpoint} cannot be read: its checkpoint.json is damaged") from error


def prune(folder: Path, keep: int) -> None:
    """Delete all but the latest ``keep`` checkpoints."""
    for old in durable.checkpoints(folder)[:-keep]:
        durable.delete(old)


def _random_state() -> dict[str, Any]:
    # Of the GPU in use alone: the GPUs of all processes are in the same state.
    cuda = [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def _restore_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"][0])
