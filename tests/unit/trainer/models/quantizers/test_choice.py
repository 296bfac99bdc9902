from tests.fixtures import tiny_models
from trainer.models.quantizers import FSQ, LearnedCodebook
from trainer.models.vqvae import quantizer_for


def test_a_config_without_levels_is_a_learned_codebook_with_its_options() -> None:
    made = quantizer_for(
        tiny_models.config(
            codebook_size=20,
            codebook_dim=3,
            update="gradient",
            decay=0.5,
            restart_below=0.3,
            normalise_codes=True,
            rotation_trick=True,
        )
    )
    assert isinstance(made, LearnedCodebook)
    assert (made.size, made.dim, made.codebook.shape) == (20, 3, (20, 3))
    assert (made.update, made.decay, made.restart_below) == ("gradient", 0.5, 0.3)
    assert made.normalise
    assert made.rotate


def test_the_remedies_that_change_the_lookup_are_asked_for() -> None:
    made = quantizer_for(tiny_models.config())
    assert isinstance(made, LearnedCodebook)
    assert not made.normalise
    assert not made.rotate


def test_a_config_with_levels_is_an_fsq() -> None:
    made = quantizer_for(tiny_models.config(fsq_levels=(8, 5), codebook_size=40, codebook_dim=2))
    assert isinstance(made, FSQ)
    assert (made.size, made.dim) == (40, 2)
