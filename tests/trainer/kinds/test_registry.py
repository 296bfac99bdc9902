from tests.trainer import tiny
from trainer.config import CONFIGS, DEFAULT_PRESETS, presets
from trainer.kinds import KINDS, build
from trainer.kinds.vqvae import VQVAE


def test_every_kind_has_a_config_a_model_and_a_default_preset() -> None:
    assert KINDS.keys() == CONFIGS.keys() == DEFAULT_PRESETS.keys()
    assert all(DEFAULT_PRESETS[kind] in presets(kind) for kind in KINDS)


def test_the_config_decides_what_is_built() -> None:
    assert isinstance(build(tiny.config(), tiny.GREY_28, 0.1), VQVAE)
