"""What several training processes do together, each with its part of a batch; alone, nothing changes.

The processes are those of ``torch.distributed``, where it is in use. They call these functions in the same
order, and get the same results.
"""

import torch
import torch.distributed as dist
from torch import Tensor


def total(values: Tensor) -> Tensor:
    """The sum of a tensor over all processes; ``values`` itself stays as it is."""
    if _count() == 1:
        return values
    values = values.clone()
    dist.all_reduce(values)
    return values


def drawn(rows: Tensor, count: int) -> Tensor:
    """``count`` random rows of those of all processes, float ``(n, D)`` to ``(count, D)``, in turn from each.

    A row is drawn again only when all have been.
    """
    processes, places = _count(), torch.arange(count, device=rows.device)
    order = torch.randperm(len(rows), device=rows.device)
    picked = rows[order[places // processes % len(rows)]]
    if processes == 1:
        return picked
    mine = places % processes == dist.get_rank()
    return total(torch.where(mine[:, None], picked, torch.zeros_like(picked)))


def _count() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
