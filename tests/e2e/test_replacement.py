"""A model is replaced while callers use it, as the trainer does it: published at once, then loaded."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from tests.e2e.load import Call, Load
from tests.fixtures import toy_models
from tests.fixtures.processes import PATIENCE, ROOT, serving, start
from tests.fixtures.tiny_models import write_digits
from trainer.durable import publication
from trainer.export.reload import KEY_VARIABLE, have_loaded

KEY = "secret"
WORKERS = 2
TIMES = 10
SEVEN = (ROOT / "tests" / "fixtures" / "seven.png").read_bytes()
SMALL = [
    "--publish-anyway",
    *("--batch-size=32", "--device=cpu", "--name=small", "--codebook-size=16"),
    *("--codebook-dim=4", "--width=16", "--stem-width=8", "--hidden-width=8", "--blocks=1"),
]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="folders are not swapped like that there")


@pytest.fixture
def versions(tmp_path: Path) -> list[Path]:
    """A model in two versions, which decode the same codes to other pixels."""
    return [toy_models.write_levels(tmp_path / str(tint), tint=tint) for tint in (0, 40)]


@pytest.fixture
def models(tmp_path: Path, versions: list[Path]) -> Path:
    folder = tmp_path / "models"
    shutil.copytree(versions[0], folder / "levels")
    return folder


@pytest.fixture
def url(models: Path) -> Iterator[str]:
    flags = (f"--workers={WORKERS}", "--threads=1", "--provider=cpu", "--default-model=levels")
    with serving(models, *flags, **{KEY_VARIABLE: KEY}) as url:
        yield url


def publish(version: Path, models: Path) -> None:
    with publication(models / version.name, replace=True) as folder:
        shutil.copytree(version, folder, dirs_exist_ok=True)


def version_of(folder: Path) -> str:
    return str(json.loads((folder / "manifest.json").read_text())["version"])


def served(url: str, model: str) -> Any:
    # A connection of its own each time, so that other workers answer too.
    return httpx.get(f"{url}/models/{model}", trust_env=False, timeout=PATIENCE).json()["version"]


def decoded(url: str, codes: bytes) -> bytes:
    answer = httpx.post(f"{url}/decode", content=codes, trust_env=False, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text
    return answer.content


def test_no_call_fails_and_each_is_of_one_version(
    models: Path, versions: list[Path], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    codes = json.dumps({"codes": [[[3, 5], [7, 9]]]}).encode()
    pictures = []
    for version in reversed(versions):
        publish(version, models)
        have_loaded(url, "levels")
        pictures.append(decoded(url, codes))
    assert pictures[0] != pictures[1]
    decode = Call("/decode", codes, lambda answer: answer in pictures)
    encode = Call("/encode", SEVEN, lambda answer: json.loads(answer)["codes"] is not None)
    with Load(url, [decode, encode]) as load:
        for turn in range(1, TIMES + 1):
            publish(versions[turn % 2], models)
            assert have_loaded(url, "levels") == f"{url}: loaded levels"
            # From now on every worker has the new version.
            assert {served(url, "levels") for _ in range(4 * WORKERS)} == {version_of(versions[turn % 2])}
            load.wait_for(20)
    assert set(load.counts) == {"right"}, load.counts


def test_a_real_trainer_replaces_a_model_under_load(models: Path, tmp_path: Path, url: str) -> None:
    data = write_digits(tmp_path / "digits", train=64, test=32)

    def train(*flags: str) -> str:
        places = f"--data={data}", f"--out={tmp_path / 'runs'}", f"--export-to={models}"
        training = start(
            "trainer", "vqvae", *SMALL, *places, *flags, f"--reload={url}", **{KEY_VARIABLE: KEY}
        )
        try:
            output, errors = training.communicate(timeout=PATIENCE)
        finally:
            training.kill()
        assert (training.returncode, errors) == (0, ""), output
        return output.splitlines()[-1]

    assert train("--epochs=1") == f"{url}: loaded small; kept levels"
    before = served(url, "small")
    calls = [
        Call(f"/encode?model={name}", SEVEN, lambda answer: b'"codes"' in answer)
        for name in ("small", "levels")
    ]
    with Load(url, calls, callers=2) as load:
        assert train("--epochs=2", "--resume") == f"{url}: loaded small; kept levels"
        load.wait_for(50)
    assert {served(url, "small") for _ in range(4 * WORKERS)} != {before}
    assert set(load.counts) == {"right"}, load.counts
