"""Timing contenders in turns, so that what the machine does meanwhile falls on all of them."""

import statistics
import time
from collections.abc import Callable, Mapping

from torch import Tensor

PAUSE = 0.5


def in_turns(
    contenders: Mapping[str, Callable[[], Tensor]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """The median seconds of each contender, after a first round that is not counted, and its last result.

    ``clock`` gives seconds; that of the process is not disturbed by other processes.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    results: dict[str, Tensor] = {}
    for round_ in range(rounds + 1):
        for name, contender in contenders.items():
            # The threads of the one before go on spinning for a while, on the cores of this one.
            time.sleep(PAUSE)
            started = clock()
            results[name] = contender()
            if round_:
                times[name].append(clock() - started)
    return {name: statistics.median(values) for name, values in times.items()}, results
