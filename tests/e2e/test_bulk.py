"""Bulk encoding as a process: killed and begun again, and its codes beside those of the service."""

import io
from pathlib import Path

import numpy as np
import pytest

from service.models.bundle import read_bundle
from service.models.model import BatchLimits, ServedModel
from service.models.validation import load_model
from service.runtime.providers import choose_provider
from tests.fixtures import toy_models
from tests.fixtures.bulk_data import table, write_pictures
from tests.fixtures.killed_runs import done, faults, finished, killed
from tests.fixtures.processes import asking

PICTURES = 1500
KILLS = 3


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_models.write_levels(tmp_path_factory.mktemp("models")).parent


@pytest.fixture(scope="module")
def model(models: Path) -> ServedModel:
    return load_model(read_bundle(models / "levels"), choose_provider("cpu"), BatchLimits())


def flags(models: Path, source: Path, output: Path) -> list[str]:
    return [
        f"--models={models}",
        "--model=levels",
        f"--input={source}",
        f"--output={output}",
        "--provider=cpu",
    ]


def test_a_run_that_is_killed_again_and_again_has_every_key_once(
    models: Path, model: ServedModel, tmp_path: Path
) -> None:
    write_pictures(tmp_path / "in", PICTURES)
    arguments = [*flags(models, tmp_path / "in", tmp_path / "out"), "--shard-size=20", "--decoders=1"]
    chance = np.random.default_rng(0)
    for _ in range(KILLS):
        killed(tmp_path / "out", 0.1, chance, *arguments)
    assert 0 < len(done(tmp_path / "out")) < PICTURES // 20
    assert "going on" in finished(*arguments)
    assert faults(tmp_path / "out", tmp_path / "in", model) == []


def test_the_codes_are_those_of_the_service(models: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 20)
    finished(*flags(models, tmp_path / "in", tmp_path / "out"))
    with asking(models) as client:
        for row in table(tmp_path / "out"):
            response = client.post(
                "/encode",
                content=(tmp_path / "in" / row["key"]).read_bytes(),
                headers={"Content-Type": "image/png", "Accept": "application/x-npy"},
            )
            np.testing.assert_array_equal(np.load(io.BytesIO(response.content))[0], row["codes"])
