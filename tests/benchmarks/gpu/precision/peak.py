"""What the card can do at most, by large matrix products, and what a network needs."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.gpu.context import Context
from tests.benchmarks.gpu.precision.networks import Case, in_float32

SIDE, SMALL_SIDE = 8192, 64


def peaks(context: Context) -> Mapping[str, float]:
    """TFLOP/s of a product of two large random matrices, by precision."""
    side = SMALL_SIDE if context.rehearse else SIDE
    return {
        "float32": _product(context, side, torch.float32),
        "tf32": _product(context, side, torch.float32, tf32=True),
        "float16": _product(context, side, torch.float16),
        "bfloat16": _product(context, side, torch.bfloat16),
    }


def _product(context: Context, side: int, dtype: torch.dtype, *, tf32: bool = False) -> float:
    a, b = (torch.randn(side, side, device=context.torch_device, dtype=dtype) for _ in range(2))
    torch.backends.cuda.matmul.allow_tf32 = tf32

    def run() -> None:
        a @ b
        synchronise(context)

    run()
    ms = context.median(run, 0.15)
    torch.backends.cuda.matmul.allow_tf32 = False
    return 2 * side**3 / ms / 1e9


@cache
def flops(case: Case, models: Path) -> float:
    """Floating-point operations of one row, a multiplication and an addition as two."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        in_float32(case, models)(torch.from_numpy(case.feed(1)[case.input]))
    return float(counter.get_total_flops())


def synchronise(context: Context) -> None:
    """Wait for the card, if torch runs on one."""
    if context.torch_device == "cuda":
        torch.cuda.synchronize()
