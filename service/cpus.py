"""How many CPUs this process may use, which in a container are often fewer than the machine has."""

import math
import os
import sys
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def available_cpus() -> int:
    """CPUs that this process may use: those it is bound to, but no more than its share of time is worth.

    A share is what ``docker run --cpus`` and Kubernetes' limits set. With a thread for each CPU of the
    machine, a process that may use two would stand still for most of the time.
    """
    bound = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    share = _share(CGROUPS)
    return bound if share is None else max(1, min(bound, math.ceil(share)))


def _share(cgroups: Path) -> float | None:
    """CPUs' worth of time by the control group of a container, version 2 or 1; None without a limit."""
    try:
        quota, period = (cgroups / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = (
                (cgroups / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
            )
        except OSError:
            return None
    # Without a limit they say "max" and "-1".
    return int(quota) / int(period) if quota.strip().isdecimal() else None
