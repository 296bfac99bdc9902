"""What stands below the table: the machine, and the versions and settings of each server."""

import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import orjson

from service.contract.cpu_count import available_cpus
from tests.benchmarks.serving.contenders import Contender
from tests.benchmarks.serving.workloads import Workload

SHARED = ("onnxruntime-gpu", "pillow")
_VERSIONS = """
import json, sys
from importlib.metadata import version
print(json.dumps({name: version(name) for name in sys.argv[1:]}))
"""


def foot(contenders: Sequence[Contender], workloads: Sequence[Workload], peers: Path) -> str:
    """Two sentences and a list, in Markdown."""
    bodies = "; ".join(f"{work.name}, {_bytes(work):,.0f} bytes" for work in workloads)
    lines = ["", f"{_machine()}. The mean body: {bodies}.", ""]
    for contender in contenders:
        python = peers if contender.peer else Path(sys.executable)
        versions = _versions(python, [*contender.packages, *SHARED])
        facts = [f"{name} {version}" for name, version in versions.items()]
        facts += [f"{name}={value}" for name, value in {**contender.settings, **contender.variables}.items()]
        if contender.batches:
            facts += [
                f"max_batch_size={work.at_once} for {work.name}" for work in workloads if work.images == 1
            ]
        lines.append(f"- {contender.title}: {', '.join(facts)}")
    return "\n".join(lines)


def _machine() -> str:
    named = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    processor = named[0].partition(":")[2].strip() if named else platform.machine()
    today = datetime.now(UTC).date().isoformat()
    return f"{available_cpus()} cores of {processor}, Python {platform.python_version()}, {today}"


def _bytes(workload: Workload) -> float:
    return sum(body.stat().st_size for body in workload.bodies) / len(workload.bodies)


def _versions(python: Path, packages: Sequence[str]) -> dict[str, str]:
    command = [str(python), "-c", _VERSIONS, *packages]
    found: dict[str, str] = orjson.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return found
