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
from tests.fixtures.processes import PATIENCE, ROOT, serving
from tests.fixtures.trained_models import PLAIN, folder_of
from tests.fixtures.trainer_command import finished
from trainer.durable import publication
from trainer.export.reload import KEY_VARIABLE, have_loaded
from trainer.training.run_folder import RunFolder

KEY = "secret"
WORKERS = 2
TIMES = 3
SEVEN = (ROOT / "tests" / "fixtures" / "seven.png").read_bytes()

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="folders are not swapped like that there")


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A model in two versions, which decode the same codes to other pixels."""
    folder = tmp_path_factory.mktemp("versions")
    return [toy_models.write_levels(folder / str(tint), tint=tint) for tint in (0, 40)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, versions: list[Path]) -> Path:
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(versions[0], folder / "levels")
    return folder


@pytest.fixture(scope="module")
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


def test_the_trainer_replaces_a_model_under_load(
    models: Path, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    run = RunFolder.open(shutil.copytree(folder_of(PLAIN) / "runs" / "tiny", tmp_path / "runs" / "tiny"))
    run.configure(run.config.model_copy(update={"out": tmp_path / "runs"}))
    shutil.copytree(folder_of(PLAIN) / "exported" / "tiny", models / "tiny")
    assert have_loaded(url, "tiny") == f"{url}: loaded tiny; kept levels"
    before = served(url, "tiny")
    calls = [
        Call(f"/encode?model={name}", SEVEN, lambda answer: b'"codes"' in answer)
        for name in ("tiny", "levels")
    ]
    resume = ["--resume", "--name=tiny", "--epochs=3", f"--out={tmp_path / 'runs'}"]
    with Load(url, calls, callers=2, pause=0.05) as load:
        printed = finished("vqvae", *resume, f"--export-to={models}", f"--reload={url}")
        load.wait_for(50)
    assert printed.splitlines()[-1] == f"{url}: loaded tiny; kept levels"
    after = {served(url, "tiny") for _ in range(4 * WORKERS)}
    assert after == {version_of(models / "tiny")}
    assert before not in after
    assert set(load.counts) == {"right"}, load.counts
