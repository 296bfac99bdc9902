"""The library needs nothing of a server, and no torch; a client does not even load ONNX Runtime."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

NEVER = (
    *("fastapi", "fastapi_offline", "starlette", "uvicorn", "prometheus_client", "python_multipart"),
    *("pydantic_settings", "torch", "onnx", "trainer", "anyio.to_thread"),
)

PROGRAM = """
import importlib.abc, sys

class Nothing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in {never}:
            raise ImportError(f"{{name}} is not installed here")

sys.meta_path.insert(0, Nothing())
import tessera
tessera.Client("http://localhost:8000")
assert "onnxruntime" not in sys.modules
model = tessera.load("exported/ncp-mnist", provider="cpu", threads=1)
model.interpolate(["tests/fixtures/seven.png"] * 2)
import tessera.command
for package in ("service.api", "service.server", "service.settings", "service.models.scheduler"):
    assert package not in sys.modules, package
"""


@pytest.mark.slow
def test_it_runs_where_neither_a_server_nor_torch_is_installed() -> None:
    program = PROGRAM.format(never=NEVER)
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
