"""How many CPUs this process may use, which in a container are often fewer than the machine has."""

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


def available_cpus() -> int:
    """CPUs that this process may use: those it is bound to, but no more than its share of time is worth.

    A share is what ``docker run --cpus``, Kubernetes' limits and systemd's ``CPUQuota`` set. With a thread
    for each CPU of the machine, a process that may use two would stand still for most of the time.
    """
    bound = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    shares = [share for folder in _cgroups() if (share := _share(folder)) is not None]
    return max(1, min(bound, math.ceil(min(shares, default=bound))))


def _cgroups() -> Iterator[Path]:
    """The control groups of this process and those around them, versions 2 and 1, as far as they can be seen.

    In a container, its own may be the root of what is mounted, whatever its path is outside.
    """
    yield from (CGROUPS, CGROUPS / "cpu")
    try:
        lines = OWN_CGROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        # As in cgroups(7): number:controllers:path, without controllers in version 2.
        _, controllers, path = line.split(":", 2)
        own = PurePosixPath(path)
        if ".." in own.parts or (controllers and "cpu" not in controllers.split(",")):
            continue
        root = CGROUPS / "cpu" if controllers else CGROUPS
        yield from (root / group.relative_to("/") for group in (own, *own.parents))


def _share(group: Path) -> float | None:
    """CPUs' worth of time that a control group allows; None without a limit."""
    try:
        quota, period = (group / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        except OSError:
            return None
    # Without a limit they say "max" and "-1".
    return int(quota) / int(period) if quota.strip().isdecimal() else None
