"""A model goes to the hub by one command and is served from there by another, here through a stand-in."""

import io
import subprocess
from pathlib import Path

import httpx2
import numpy as np
import pytest

import tessera
from tests.fixtures import hub_stand_in, toy_models
from tests.fixtures.hub_stand_in import KEY
from tests.fixtures.processes import PATIENCE, serving, start

pytestmark = pytest.mark.e2e

SEVEN = (Path(__file__).parents[1] / "fixtures" / "seven.png").read_bytes()


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    printed, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, printed, errors


def codes(url: str) -> list[int]:
    response = httpx2.post(
        f"{url}/encode", content=SEVEN, headers={"Accept": "application/x-npy"}, trust_env=False
    )
    assert response.status_code == 200, response.text
    return np.load(io.BytesIO(response.content)).ravel().tolist()


def test_push_and_serve(tmp_path: Path) -> None:
    folder = toy_models.write_levels(tmp_path / "exported")
    with hub_stand_in.running() as hub:
        environment = hub_stand_in.variables(hub.url, tmp_path / "cache", KEY)
        code, printed, errors = ended(start("trainer", "push", str(folder), "ada/engine", **environment))
        assert code == 0, errors
        commit = hub.repositories["ada/engine"].revisions["main"]
        assert printed.splitlines()[-1].endswith(f"-m service --models hf://ada/engine@{commit}")
        with serving("hf://ada/engine", "--provider=cpu", "--workers=2", **environment) as url:
            assert codes(url) == tessera.load(folder, provider="cpu").encode(SEVEN).ravel().tolist()
    # The hub is gone; the cache is not.
    with serving("hf://ada/engine", "--provider=cpu", "--workers=1", **environment) as url:
        assert len(codes(url)) == 49
    code, _, errors = ended(start("service", "--models=hf://ada/none", HF_HUB_OFFLINE="1", **environment))
    assert code == 1
    assert errors.splitlines()[-1] == (
        "python -m service: hf://ada/none: it is not in the cache, and HF_HUB_OFFLINE is set "
        "(hf://ada/none); change it with --models"
    )
