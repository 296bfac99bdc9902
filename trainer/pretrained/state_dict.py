"""Fills a module with the tensors of a checkpoint. Every tensor of both must be accounted for."""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from trainer.errors import CheckpointError
from trainer.pretrained.families import Family, Renames

# Names that a message shows.
SHOWN = 3


def fill(module: nn.Module, tensors: Mapping[str, Tensor], family: Family, source: str) -> None:
    """Give a module its tensors, as float32, by the names of the family.

    A tensor that is a linear layer in one and a 1x1 convolution in the other has the same numbers, and fits.

    Raises CheckpointError if a tensor is missing, left over, of another shape or no number; the message names
    tensors as the checkpoint does.
    """
    wanted = module.state_dict()
    names = {own: _name_of(own, family.names, tensors) for own in wanted}
    if missing := [theirs for theirs in names.values() if theirs not in tensors]:
        raise CheckpointError(f"{source} lacks {_listed(missing)}, which its config asks for")
    unused = re.compile("|".join(family.unused or ("(?!)",)))
    left_over = [name for name in tensors if name not in names.values() and not unused.match(name)]
    if left_over:
        raise CheckpointError(f"{source} has {_listed(left_over)}, for which its config has no place")
    filled: dict[str, Tensor] = {}
    for own, theirs in names.items():
        given, shape = tensors[theirs], tuple(wanted[own].shape)
        if _without_ones(given.shape) != _without_ones(shape):
            raise CheckpointError(
                f"{source}: {theirs} has the shape {list(given.shape)}, and its config asks for {list(shape)}"
            )
        if not bool(torch.isfinite(given).all()):
            raise CheckpointError(f"{source}: {theirs} has values that are not finite")
        filled[own] = given.to(wanted[own].dtype).reshape(shape)
    module.load_state_dict(filled, assign=True)
    module.requires_grad_(requires_grad=False)


def _name_of(own: str, alternatives: Iterable[Renames], tensors: Mapping[str, Tensor]) -> str:
    """The name of a tensor in a checkpoint; if it has none of the alternatives, the first."""
    names = [renamed(own, renames) for renames in alternatives]
    return next((name for name in names if name in tensors), names[0])


def renamed(name: str, renames: Renames) -> str:
    """The name of a tensor of an architecture in a checkpoint."""
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def _without_ones(shape: Iterable[int]) -> list[int]:
    sizes = list(shape)
    while sizes and sizes[-1] == 1:
        sizes.pop()
    return sizes


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN:,} more"
