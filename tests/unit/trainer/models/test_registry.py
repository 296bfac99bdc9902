from tests.fixtures import tiny_models
from trainer.config import CONFIGS, DEFAULT_PRESETS, presets
from trainer.models.registry import KINDS, build
from trainer.models.vqvae import VQVAE


def test_every_kind_has_a_config_a_model_and_a_default_preset() -> None:
    assert KINDS.keys() == CONFIGS.keys() == DEFAULT_PRESETS.keys()
    assert all(DEFAULT_PRESETS[kind] in presets(kind) for kind in KINDS)


def test_the_config_decides_what_is_built() -> None:
    assert isinstance(build(tiny_models.config(), tiny_models.GREY_28, 0.1), VQVAE)
