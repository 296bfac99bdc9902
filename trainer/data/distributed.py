"""Several processes that train one model: their group, their shares of a batch, and what they add up.

``torchrun`` starts the processes, and sets the rank of each in its environment. A batch has the same images
in the same order for any number of processes, and each process has a run of its rows. All generators draw
the same numbers in all processes, for the rows of all, and each process takes those of its own rows: so what
is learned does not depend on the number of processes, but for rounding.

A single process has no group, and nothing here costs it anything.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from trainer.errors import ConfigError, LostProcessError

# The others wait this long for the first to write a checkpoint or pictures. A lost one is noticed at once.
PATIENCE = timedelta(minutes=30)
# Environment variables that torchrun sets for each process.
TORCHRUN_VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

T = TypeVar("T")


class _Batch:
    """The size of the batch of which this process has its share; 0 where there is none."""

    size = 0


def requested_world_size(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes the environment asks for. Raises ConfigError if variables are missing or wrong."""
    given = environment.get("WORLD_SIZE", "1")
    if given == "1":
        return 1
    missing = [name for name in TORCHRUN_VARIABLES if name not in environment]
    numbers = {
        name: environment[name] for name in TORCHRUN_VARIABLES if name not in [*missing, "MASTER_ADDR"]
    }
    wrong = [f"{name} is {value!r}" for name, value in numbers.items() if not value.isdecimal()]
    if missing or wrong:
        found = "; ".join([*wrong, *([f"{', '.join(missing)} is not set"] if missing else [])])
        raise ConfigError(
            f"WORLD_SIZE is {given!r}, but {found}: start several processes with torchrun "
            "--nproc-per-node N -m trainer ..., or take WORLD_SIZE out of the environment"
        )
    return int(given)


def start(accelerator: str) -> None:
    """Join the process group that the environment asks for, if it does, to train on ``accelerator``.

    Raises ConfigError for an accelerator that cannot be shared or is not there for each process.
    """
    if requested_world_size() == 1 or dist.is_initialized():
        return
    here, local_rank = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["LOCAL_RANK"])
    if accelerator == "mps":
        raise ConfigError(
            f"{requested_world_size()} processes cannot train on mps: choose --device cpu, or one process"
        )
    if accelerator == "cuda":
        if here > torch.cuda.device_count():
            raise ConfigError(
                f"torchrun started {here} processes here, but torch finds {torch.cuda.device_count()} GPUs: "
                "--nproc-per-node can be at most that, or choose --device cpu"
            )
        torch.cuda.set_device(local_rank)
    backend = "cpu:gloo,cuda:nccl" if accelerator == "cuda" else "gloo"
    with lost_process_errors():
        dist.init_process_group(backend, timeout=PATIENCE)


def leave() -> None:
    """Leave the process group at the end of training: the first process goes on, the others exit."""
    if world_size() == 1:
        return
    first = is_first()
    with lost_process_errors():
        dist.barrier()
    dist.destroy_process_group()
    if not first:
        sys.exit(0)


@contextmanager
def lost_process_errors() -> Iterator[None]:
    """Raise LostProcessError if the group fails because another process has ended."""
    try:
        yield
    except (dist.DistError, RuntimeError) as error:
        text = str(error)
        if not isinstance(error, dist.DistError) and "gloo" not in text and "NCCL" not in text:
            raise
        message = (
            f"process {rank()} of {world_size()} lost another one, which was ended or failed ({_brief(text)})"
        )
        # Otherwise the rest of the group may abort this process before the error is printed.
        with suppress(RuntimeError, ValueError):
            dist.destroy_process_group()
        raise LostProcessError(message) from error


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def is_first() -> bool:
    """Whether this is the process that writes and prints."""
    return rank() == 0


def local_world_size() -> int:
    """How many of the processes are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size())) if world_size() > 1 else 1


def rows(size: int) -> slice:
    """The rows of a batch of ``size`` that this process has: as many as the first, or one fewer."""
    return slice(-(-size * rank() // world_size()), -(-size * (rank() + 1) // world_size()))


@contextmanager
def batch_of(size: int) -> Iterator[None]:
    """A block in which this process computes on its ``rows`` of a batch of ``size``."""
    before, _Batch.size = _Batch.size, size
    try:
        yield
    finally:
        _Batch.size = before


def span(own: int) -> tuple[int, int]:
    """The index of the first of this process's ``own`` rows among those of all processes, and their number.

    Each image of the batch has equally many rows. Outside of a batch all processes have as many rows.
    """
    if world_size() == 1:
        return 0, own
    if not _Batch.size:
        return own * rank(), own * world_size()
    mine = rows(_Batch.size)
    each = own // (mine.stop - mine.start)
    return mine.start * each, _Batch.size * each


def share() -> float:
    """The share of the batch that this process has, such as 1 / 2."""
    mine = rows(_Batch.size)
    return (mine.stop - mine.start) / _Batch.size if world_size() > 1 and _Batch.size else 1 / world_size()


def uniform(
    *shape: int, device: torch.device | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Uniform in [0, 1), float32 ``shape``, whose first axis is the rows of this process."""
    return _drawn(torch.rand, shape, device, generator)


def normal(
    *shape: int, device: torch.device | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Standard normal, float32 ``shape``, whose first axis is the rows of this process."""
    return _drawn(torch.randn, shape, device, generator)


def dropout(x: Tensor, chance: float, training: bool) -> Tensor:
    """``F.dropout`` of the rows of this process."""
    if world_size() == 1 or not training or not chance:
        return F.dropout(x, chance, training)
    first, size = span(len(x))
    kept = torch.empty(size, *x.shape[1:], dtype=x.dtype, device=x.device).bernoulli_(1 - chance)
    return x * kept[first : first + len(x)].div_(1 - chance)


def _drawn(
    draw: Any, shape: Sequence[int], device: torch.device | None, generator: torch.Generator | None
) -> Tensor:
    first, size = span(shape[0])
    drawn: Tensor = draw(size, *shape[1:], device=device, generator=generator)
    return drawn if world_size() == 1 else drawn[first : first + shape[0]]


def total(values: Tensor) -> Tensor:
    """The sum of a tensor over all processes; ``values`` itself stays as it is."""
    if world_size() == 1:
        return values
    values = values.clone()
    dist.all_reduce(values)
    return values


def summed(*values: float) -> list[float]:
    """The sums of some numbers over all processes."""
    return list(values) if world_size() == 1 else total(torch.tensor(values, dtype=torch.float64)).tolist()


def mean(values: Tensor) -> Tensor:
    """The mean over the rows of all processes, of the mean over those of this one."""
    return values if world_size() == 1 else total(values * share())


def even(amount: Tensor) -> Tensor:
    """What this process would have of an amount if each row of the batch had as much."""
    return amount if world_size() == 1 else total(amount) * share()


def picked(own: Tensor, places: Tensor) -> Tensor:
    """Of the rows of all processes, those at ``places``, int64 ``(n,)``: ``(m, D)`` to ``(n, D)``."""
    if world_size() == 1:
        return own[places]
    inside = places - span(len(own))[0]
    mine = (inside >= 0) & (inside < len(own))
    found = own[inside.clamp(0, len(own) - 1)]
    return total(torch.where(mine[:, None], found, torch.zeros_like(found)))


def gathered(own: Tensor) -> Tensor:
    """The rows of all processes, of any dtype: ``(m, ...)`` to ``(n, ...)``."""
    if world_size() == 1:
        return own
    first, size = span(len(own))
    return put_together(own, torch.arange(first, first + len(own), device=own.device), size)


def put_together(own: Tensor, places: Tensor, size: int) -> Tensor:
    """The ``size`` rows of all processes; this one has those at ``places``, int64 ``(m,)``."""
    whole = own.new_zeros(size, *own.shape[1:])
    whole[places] = own
    # As bytes, of which one process has all that are not 0: a group does not add every dtype.
    if world_size() > 1:
        dist.all_reduce(whole.view(-1).view(torch.uint8))
    return whole


def highest(value: int) -> int:
    """The highest of the numbers of all processes."""
    if world_size() == 1:
        return value
    values = torch.tensor(value)
    dist.all_reduce(values, dist.ReduceOp.MAX)
    return int(values)


def from_first(make: Callable[[], T]) -> T:
    """What the first process makes; the others wait for a copy of it."""
    if world_size() == 1:
        return make()
    values: list[Any] = [make() if is_first() else None]
    dist.broadcast_object_list(values)
    made: T = values[0]
    return made


@contextmanager
def local_rank_zero_first() -> Iterator[None]:
    """A block that one process of each machine runs before the others, so that only one downloads."""
    waits = world_size() > 1 and int(os.environ.get("LOCAL_RANK", rank())) > 0
    if waits:
        dist.barrier()
    try:
        yield
    finally:
        if world_size() > 1 and not waits:
            dist.barrier()


def _brief(text: str) -> str:
    """The first sentence of the group's own message, which begins with the place in its source."""
    line = text.strip().splitlines()[0]
    return line.rpartition("] ")[2].partition(". ")[0].strip(" .") or line
