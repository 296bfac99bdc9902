import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]

PROGRAM = """
import importlib, importlib.abc, pkgutil, sys

class Nothing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "onnx", "trainer"):
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Nothing())
import service
for module in pkgutil.walk_packages(service.__path__, "service."):
    importlib.import_module(module.name)
    print(module.name)
assert not {"torch", "onnx", "trainer"} & {name.split(".")[0] for name in sys.modules}
"""


def test_the_service_needs_no_torch_no_onnx_and_no_trainer() -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    imported = set(run.stdout.split())
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / "service").rglob("*.py")
    }
    assert imported == files - {"service"}
