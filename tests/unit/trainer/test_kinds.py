import pkgutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from service.models.bundle import read_bundle
from service.models.model import BatchLimits
from service.models.validation import load_model
from service.runtime.providers import Provider
from tests.fixtures import tiny_models
from trainer.__main__ import main
from trainer.config import RunConfig, base, config_class, presets
from trainer.kinds import KINDS, Kind
from trainer.models.base import Model, build
from trainer.models.vqvae import VQVAE

TOY = Kind(
    config="tests.fixtures.toy_kind:ToyConfig",
    model="tests.fixtures.toy_kind:Toy",
    preset="toy-mnist",
    summary="A linear autoencoder.",
)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_config_a_model_and_a_preset(kind: str) -> None:
    assert issubclass(config_class(kind), RunConfig)
    assert issubclass(pkgutil.resolve_name(KINDS[kind].model), Model)
    assert KINDS[kind].preset in presets(kind)


def test_the_config_decides_what_is_built() -> None:
    assert isinstance(build(tiny_models.config(), tiny_models.GREY_28, 0.1), VQVAE)


@pytest.mark.slow
def test_a_new_kind_is_a_file_a_row_and_a_preset(
    tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "PRESETS", tmp_path)
    monkeypatch.setitem(KINDS, "toy", TOY)
    (tmp_path / "toy-mnist.yaml").write_text("kind: toy\nepochs: 1\ndevice: cpu\n")
    places = [f"--data={digits}", f"--out={tmp_path}/runs", f"--export-to={tmp_path}/exported"]
    result = CliRunner().invoke(main, ["toy", "--dim=3", "--batch-size=32", *places])
    assert result.exit_code == 0, result.output
    bundle = read_bundle(tmp_path / "exported" / "toy-mnist")
    served = load_model(bundle, Provider("cpu", "a test asks for it", 1), BatchLimits())
    assert served.manifest.kind == "toy"
    assert served.manifest.codes.shape == (3,)
