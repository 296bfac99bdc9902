"""What the cores have to give: ONNX Runtime alone, one process for each core with one thread."""

import subprocess
import sys

import click

from service.contract.cpu_count import available_cpus
from tests.benchmarks.serving.processes import ENVIRONMENT, ROOT
from tests.benchmarks.serving.workloads import Workload

BATCHES = (1, 8, 16, 32, 64)


def images_per_second(workload: Workload, batch: int, seconds: float, *, decode: bool) -> float:
    """The images of all processes together, in batches of one size; ``decode`` counts that of PNGs too."""
    command = [sys.executable, "-m", "tests.benchmarks.serving.loop", str(workload.graph)]
    command += [str(batch), str(seconds), str(int(decode)), *map(str, workload.bodies)]
    loops = [
        subprocess.Popen(
            command, cwd=ROOT, env=ENVIRONMENT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(available_cpus())
    ]
    try:
        for loop in loops:
            _line(loop)
        for loop in loops:
            assert loop.stdin is not None
            loop.stdin.write("go\n")
            loop.stdin.flush()
        return sum(float(_line(loop)) for loop in loops)
    finally:
        for loop in loops:
            loop.terminate()
            loop.communicate()


def _line(loop: subprocess.Popen[str]) -> str:
    assert loop.stdout is not None
    if line := loop.stdout.readline():
        return line
    raise click.ClickException(f"a loop of ONNX Runtime ended with exit code {loop.wait()}")
