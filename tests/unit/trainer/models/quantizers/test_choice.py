from tests.fixtures import tiny_models
from trainer.models.quantizers import FSQ, LearnedCodebook, MultiScale, Residual, SimVQ
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


def test_a_config_with_several_levels_has_a_codebook_for_each() -> None:
    made = quantizer_for(tiny_models.config(levels=3, level_dropout=0.2, rotation_trick=True))
    assert isinstance(made, Residual)
    assert (made.levels, made.size, made.dim, made.dropout, made.rotate) == (3, 16, 4, 0.2, True)
    assert all(isinstance(level, LearnedCodebook) and not level.rotate for level in made.by_level)
    simvq = quantizer_for(tiny_models.config(levels=2, update="simvq"))
    assert isinstance(simvq, Residual)
    assert all(isinstance(level, SimVQ) for level in simvq.by_level)


def test_a_config_with_level_grids_has_one_codebook_for_all() -> None:
    made = quantizer_for(tiny_models.config(level_grids=(1, 7), level_dropout=0.2, rotation_trick=True))
    assert isinstance(made, MultiScale)
    assert (made.grids, made.levels, made.dropout, made.rotate) == ((1, 7), 2, 0.2, True)
    assert isinstance(made.shared, LearnedCodebook)
    assert (made.size, made.dim, made.shared.rotate) == (16, 4, False)


def test_simvq_keeps_the_options_of_the_lookup() -> None:
    made = quantizer_for(tiny_models.config(update="simvq", normalise_codes=True, rotation_trick=True))
    assert isinstance(made, SimVQ)
    assert (made.size, made.dim, made.normalise, made.rotate) == (16, 4, True, True)
