import math
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fastapi.testclient import TestClient

from service.api.app import create_app
from service.settings import Settings
from tests.fixtures import tiny_models
from trainer.__main__ import main
from trainer.config import RunConfig, base, config_class, presets
from trainer.kinds import KINDS, Kind
from trainer.models.base import Model, build
from trainer.models.vqvae import VQVAE

SEVEN = Path(tiny_models.__file__).with_name("seven.png")
JSON = {"Accept": "application/json"}
TOY = Kind(
    config="tests.fixtures.toy_kind:ToyConfig",
    model="tests.fixtures.toy_kind:Toy",
    preset="toy-mnist",
    summary="A linear autoencoder.",
)
PRESET = "kind: toy\nepochs: 1\nbatch_size: 32\n"


@pytest.fixture
def served(tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Kind], TestClient]:
    """Puts a kind into the table, trains it by its command, and serves what was published."""

    def served(kind: Kind) -> TestClient:
        monkeypatch.setattr(base, "PRESETS", tmp_path)
        monkeypatch.setitem(KINDS, "toy", kind)
        (tmp_path / "toy-mnist.yaml").write_text(PRESET)
        places = [f"--data={digits}", f"--out={tmp_path}/runs", f"--export-to={tmp_path}/exported"]
        result = CliRunner().invoke(main, ["toy", "--dim=3", "--device=cpu", *places])
        assert result.exit_code == 0, result.output
        settings = Settings(models=tmp_path / "exported", provider="cpu", threads=1)
        return TestClient(create_app(settings))

    return served


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_config_a_model_and_a_preset(kind: str) -> None:
    assert issubclass(config_class(kind), RunConfig)
    assert issubclass(pkgutil.resolve_name(KINDS[kind].model), Model)
    assert KINDS[kind].preset in presets(kind)


def test_the_config_decides_what_is_built() -> None:
    assert isinstance(build(tiny_models.config(), tiny_models.GREY_28, 0.1), VQVAE)


@pytest.mark.slow
def test_a_new_kind_is_a_file_a_row_and_a_preset(served: Callable[[Kind], TestClient]) -> None:
    with served(TOY) as client:
        described = client.get("/models/toy-mnist").json()
        assert described["kind"] == "toy"
        assert described["codes"]["shape"] == [3]
        encoded = client.post("/encode", content=SEVEN.read_bytes()).json()
        assert encoded["shape"] == [1, 3]
        decoded = client.post("/decode", json=encoded)
        assert decoded.headers["content-type"] == "image/png"


@pytest.mark.slow
def test_a_new_sampler_is_a_graph_of_its_model(served: Callable[[Kind], TestClient]) -> None:
    with served(TOY._replace(model="tests.fixtures.toy_sampler:WalkingToy")) as client:

        def sample(**query: float) -> dict[str, Any]:
            response = client.post("/sample", params={"n": 4, "seed": 1, **query}, headers=JSON)
            assert response.status_code == 200, response.text
            document: dict[str, Any] = response.json()
            return document

        start, walked = sample(renewal=0), sample(steps=20)
        assert walked["method"] == "walk"
        assert walked["parameters"] == pytest.approx({"steps": 20, "renewal": 0.1})
        assert walked == sample(steps=20)
        assert walked["codes"] != start["codes"]
        norms = [math.hypot(*code) for code in start["codes"]]
        assert start["figures"]["farthest"] == pytest.approx(norms, rel=1e-5)
        decoded = client.post("/decode", json={"codes": walked["codes"]}, headers=JSON).json()
        assert decoded["images"] == walked["images"]
        assert client.post("/sample?steps=101").status_code == 422
