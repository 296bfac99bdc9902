"""How many CPUs this process may use: in a container often fewer than the machine has."""

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


def available_cpus() -> int:
    """The CPUs of this process's affinity mask, but no more than its CPU quota, rounded up; 1 or more.

    ``docker run --cpus``, Kubernetes' limits and systemd's ``CPUQuota`` set a quota. With one thread per CPU
    of the machine, a process with a quota of two CPUs would be throttled most of the time.
    """
    bound = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    quotas = [quota for folder in _cgroups() if (quota := _quota(folder)) is not None]
    return max(1, min(bound, math.ceil(min(quotas, default=bound))))


def _cgroups() -> Iterator[Path]:
    """The visible control groups of this process and their parents, versions 2 and 1.

    In a container, the process's own group may be mounted as the root, whatever its path is outside.
    """
    yield from (CGROUPS, CGROUPS / "cpu")
    try:
        lines = OWN_CGROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        # cgroups(7): "number:controllers:path", without controllers in version 2.
        _, controllers, path = line.split(":", 2)
        own = PurePosixPath(path)
        if ".." in own.parts or (controllers and "cpu" not in controllers.split(",")):
            continue
        root = CGROUPS / "cpu" if controllers else CGROUPS
        yield from (root / group.relative_to("/") for group in (own, *own.parents))


def _quota(group: Path) -> float | None:
    """The quota of a control group, in CPUs; None without a quota."""
    try:
        quota, period = (group / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        except OSError:
            return None
    # Without a quota the files say "max" and "-1".
    return int(quota) / int(period) if quota.strip().isdecimal() else None
