"""A plugin of pytest that imports other projects before coverage traces, which would slow the imports down.

    python -m pytest -p tests.imported_untraced --cov ...

Only the processes that run tests need them, and pytest loads the plugins that are named to it first.
"""

import importlib
import os
import warnings

# The first three are what the trainer imports late: the tests of almost every process need them.
HEAVY = ("lightning_fabric", "torchmetrics", "torch.utils.tensorboard", "datasets", "onnx_ir", "fastapi")

if "PYTEST_XDIST_WORKER" in os.environ:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in HEAVY:
            importlib.import_module(name)
