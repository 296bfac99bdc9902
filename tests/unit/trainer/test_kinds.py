import pkgutil

import pytest

from tests.fixtures import tiny_models
from trainer.config import RunConfig, config_class, presets
from trainer.kinds import KINDS
from trainer.models.base import Model, build
from trainer.models.vqvae import VQVAE


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_config_a_model_and_a_preset(kind: str) -> None:
    assert issubclass(config_class(kind), RunConfig)
    assert issubclass(pkgutil.resolve_name(KINDS[kind].model), Model)
    assert KINDS[kind].preset in presets(kind)
    assert KINDS[kind].pictures in (None, *presets(kind))


def test_the_config_decides_what_is_built() -> None:
    assert isinstance(build(tiny_models.config(), tiny_models.GREY_28, 0.1), VQVAE)
