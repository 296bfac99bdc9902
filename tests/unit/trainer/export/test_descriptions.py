import re
from pathlib import Path

import trainer
from tests.fixtures.tiny_models import Trained
from trainer.evaluation.reconstructions import STEPS
from trainer.export import descriptions
from trainer.export.descriptions import DESCRIPTIONS
from trainer.models.code_prior.stage import PriorStage
from trainer.models.gaussian.noise_contrastive import ClassifierStage

(ROOT,) = trainer.__path__


def test_every_figure_of_a_manifest_is_explained(generating: Trained) -> None:
    named = {name for row in generating.exported.manifest.measures for name in row.values}
    assert {"mse", "bits"} <= named <= DESCRIPTIONS.keys()


def test_every_explained_figure_is_measured() -> None:
    sources = [file.read_text() for file in Path(ROOT).rglob("*.py") if file != Path(descriptions.__file__)]
    # Metrics that a library computes are named in docstrings.
    words = set(re.findall(r"\w+", "\n".join(sources)))
    # Composed of the name of a second stage.
    words |= {f"{stage.name}_{STEPS}" for stage in (PriorStage, ClassifierStage)}
    assert DESCRIPTIONS.keys() <= words
