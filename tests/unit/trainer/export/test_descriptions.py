import re
from pathlib import Path

import trainer
from tests.fixtures.tiny_models import Trained
from trainer.export.descriptions import DESCRIPTIONS

(ROOT,) = trainer.__path__


def test_every_figure_of_a_manifest_is_explained(generating: Trained) -> None:
    named = {name for row in generating.exported.manifest.measures for name in row.values}
    assert {"mse", "bits"} <= named <= DESCRIPTIONS.keys()


def test_nothing_is_explained_that_nobody_measures() -> None:
    sources = [file.read_text() for file in Path(ROOT).rglob("*.py") if file.name != "meanings.py"]
    # Those that come of a library are named in docstrings.
    words = set(re.findall(r"\w+", "\n".join(sources)))
    assert DESCRIPTIONS.keys() <= words
