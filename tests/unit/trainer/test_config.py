import hashlib
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from service.contract.manifest import ImageSpec
from tests.fixtures import tiny_models
from trainer.config import (
    PRESETS,
    LossesConfig,
    NCPConfig,
    RunConfig,
    VAEConfig,
    VQVAEConfig,
    check_effects,
    check_start,
    config_class,
    in_epochs,
    presets,
    read_yaml,
    resolve,
    validated,
)
from trainer.config.base import Needs, cropped_spec
from trainer.errors import ConfigError, DataError
from trainer.kinds import KINDS


@pytest.mark.parametrize("file", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_is_valid(file: Path) -> None:
    kind = read_yaml(file)["kind"]
    assert file.stem in presets(kind)
    assert resolve(kind, preset=file.stem, flags={}).name == file.stem


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_presets_and_a_default_one(kind: str) -> None:
    assert KINDS[kind].preset in presets(kind)
    assert type(resolve(kind, flags={})) is config_class(kind)
    assert presets("vae") == ["vae-emoji", "vae-grid-mnist", "vae-mnist", "vae-pictures", "vae-pokemon"]
    assert presets("ncp") == ["ncp-mnist"]


def write(folder: Path, text: str) -> Path:
    file = folder / "config.yaml"
    file.write_text(text)
    return file


def test_flags_go_over_the_file_and_the_file_over_the_preset(tmp_path: Path) -> None:
    file = write(tmp_path, "epochs: 7\nlr: 1e-4\n")
    plain = resolve("vqvae", flags={})
    config = resolve("vqvae", file=file, flags={"epochs": 9})
    assert (config.epochs, config.lr, config.batch_size) == (9, 1e-4, plain.batch_size)
    assert plain.epochs not in (7, 9)


def test_the_run_is_called_as_its_preset_unless_it_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, "name: mine")
    assert resolve("vqvae", flags={}).name == "vqvae-mnist"
    assert resolve("vqvae", file=file, flags={}).name == "mine"
    assert resolve("vqvae", file=file, flags={"name": "other"}).name == "other"


def test_a_preset_has_values_by_the_number_of_images_under_what_was_given(tmp_path: Path) -> None:
    def strides(file: Path | None = None, **flags: int) -> list[int]:
        found = (
            resolve("vqvae", preset="vqvae-pictures", file=file, flags=flags, images=images)
            for images in (180, 999, 1_000, 90_000)
        )
        return [config.model_dump()["stride"] for config in found]

    assert strides() == [4, 4, 8, 8]
    assert strides(write(tmp_path, "stride: 2")) == [2] * 4
    assert strides(write(tmp_path, "stride: 2"), stride=16) == [16] * 4
    few = resolve("vqvae", preset="vqvae-pictures", flags={})
    assert few == resolve("vqvae", preset="vqvae-pictures", flags={}, images=1)


@pytest.mark.parametrize(("crop", "side"), [(None, 16), (8, 8), (16, 16), (64, 16)])
def test_a_step_sees_a_square_or_the_whole_of_an_image_with_no_more(crop: int | None, side: int) -> None:
    image = ImageSpec(channels=3, height=16, width=16)
    seen = cropped_spec(image, crop, 4)
    assert (seen.height, seen.width) == (side, side)


def test_a_crop_is_a_multiple_of_the_stride() -> None:
    image = ImageSpec(channels=3, height=16, width=16)
    with pytest.raises(ValueError, match="a crop of 9 pixels should be a multiple of 4"):
        cropped_spec(image, 9, 4)
    assert cropped_spec(image, 16, None) == image
    with pytest.raises(ValueError, match="crop is 8, and should be none: the model takes images of one size"):
        cropped_spec(image, 8, None)


def test_steps_become_epochs_of_every_stage() -> None:
    config = tiny_models.config(steps=100, batch_size=32, prior_steps=10, prior_batch_size=64)
    settled = in_epochs(config, 256)
    # 8 and 4 steps an epoch.
    assert (settled.epochs, settled.steps) == (13, None)
    assert (settled.prior_epochs, settled.prior_steps) == (3, None)
    assert in_epochs(settled, 256) == settled
    # A batch is no larger than the data.
    assert in_epochs(config, 5).epochs == 100


def test_epochs_replace_the_steps_of_a_lower_layer(tmp_path: Path) -> None:
    def epochs(file: Path | None = None, **flags: int) -> int:
        return in_epochs(resolve("vqvae", preset="vqvae-pictures", file=file, flags=flags), 180).epochs

    # 5 steps an epoch.
    assert epochs() == 880
    assert epochs(epochs=3) == 3
    assert epochs(write(tmp_path, "steps: 44")) == 9
    assert epochs(write(tmp_path, "steps: 44"), epochs=3) == 3
    assert epochs(write(tmp_path, "epochs: 3"), steps=88) == 18


@pytest.mark.parametrize("levels", ["[8, 5, 5]", "8,5,5", "'8, 5, 5'"])
def test_fsq_levels_decide_the_codebook(tmp_path: Path, levels: str) -> None:
    """Over what a lower layer says of it, as the default preset does here."""
    config = resolve("vqvae", file=write(tmp_path, f"fsq_levels: {levels}"), flags={})
    assert isinstance(config, VQVAEConfig)
    assert (config.fsq_levels, config.codebook_size, config.codebook_dim) == ((8, 5, 5), 200, 3)
    same = resolve("vqvae", file=write(tmp_path, f"fsq_levels: {levels}\ncodebook_size: 200"), flags={})
    assert same == config


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{levels: 2, fsq_levels: [8, 5]}", "levels 2 need a learned codebook; leave fsq_levels out"),
        ("{levels: 2, normalise_codes: true}", "set normalise_codes to false"),
        ("levels: 0", "levels"),
        ("{level_grids: [1, 7], levels: 2}", "level_grids 1,7 are levels already; leave levels out"),
        ("{level_grids: [1, 7], crop: 16}", "level_grids 1,7 are grids of a whole image; set crop to none"),
        ("{level_grids: [1, 7], fsq_levels: [8, 5]}", "level_grids 1,7 need a learned codebook"),
        ("{level_grids: [1, 7], prior_parallel_share: 0.5}", "leave prior_parallel_share at 0"),
        ("level_grids: [4, 2, 7]", "there should be 2 to 32 grids"),
        ("level_grids: 7", "level_grids"),
    ],
)
def test_levels_that_cannot_be_are_refused(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        resolve("vqvae", file=write(tmp_path, text), flags={})


def test_level_grids_end_with_the_grid_of_the_images() -> None:
    config = tiny_models.config(level_grids=(1, 3, 7))
    config.check_level_grids(tiny_models.GREY_28)
    complaint = "level_grids 1,3,7 should end with the grid .* of 32x28 pixels with stride 4 it is 8x7"
    with pytest.raises(ValueError, match=complaint):
        config.check_level_grids(tiny_models.GREY_28.model_copy(update={"height": 32}))


def test_other_fsq_levels_go_over_those_of_a_file(tmp_path: Path) -> None:
    file = write(tmp_path, "{fsq_levels: [8, 5], codebook_size: 40, codebook_dim: 2}")
    config = resolve("vqvae", file=file, flags={"fsq_levels": (7, 7, 7)})
    assert isinstance(config, VQVAEConfig)
    assert (config.codebook_size, config.codebook_dim) == (343, 3)


def test_a_codebook_may_go_over_fsq_levels_of_a_file(tmp_path: Path) -> None:
    file = write(tmp_path, "fsq_levels: [8, 5]")
    config = resolve("vqvae", file=file, flags={"fsq_levels": None, "codebook_size": 64})
    assert isinstance(config, VQVAEConfig)
    assert (config.fsq_levels, config.codebook_size, config.codebook_dim) == (None, 64, 32)
    with pytest.raises(ConfigError, match="not 64 and 2"):
        resolve("vqvae", file=file, flags={"codebook_size": 64})


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert resolve("vqvae", file=write(tmp_path, ""), flags={}) == resolve("vqvae", flags={})


def test_a_choice_may_be_written_as_a_number_or_as_text(tmp_path: Path) -> None:
    file = write(tmp_path, "precision: 32\nstride: '2'\n")
    config = resolve("vqvae", file=file, flags={})
    assert isinstance(config, VQVAEConfig)
    assert (config.precision, config.stride) == ("32", 2)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("epoch: 3", r"vqvae has no key 'epoch'\. Did you mean 'epochs'\?"),
        ("kind: vae", "is for kind 'vae', not for 'vqvae'"),
        ("- epochs", "holds a list, not keys and values"),
        ("epochs: [", "is no YAML"),
        ("epochs: 0", "epochs is 0: input should be greater than or equal to 1"),
        ("lr: .inf", "lr is inf: input should be a finite number"),
        ("update: sometimes", "update is 'sometimes': input should be 'gradient', 'ema' or 'simvq'"),
        ("name: Big", "name is 'Big': string should match pattern"),
        ("{image_size: 30, stride: 4}", "image_size 30 is no multiple of stride 4"),
        ("{epochs: 0, lr: 0}", "epochs is 0.*; lr is 0"),
        ("fsq_levels: []", r"fsq_levels is \[\]: there should be one or more levels, each from 3 to 256"),
        ("fsq_levels: [8, 2]", r"fsq_levels is \[8, 2\]: there should be one or more levels, each from 3"),
        ("fsq_levels: [8, 257]", r"fsq_levels is \[8, 257\]: there should be one or more levels"),
        ("fsq_levels: [8, big]", r"fsq_levels is 'big': input should be a valid integer"),
        ("fsq_levels: [200, 200, 200]", "they make 8,000,000 codes; 1,048,576 are allowed"),
        (
            "{fsq_levels: [8, 5], codebook_size: 512}",
            "fsq_levels 8,5 are a codebook_size of 40 and a codebook_dim of 2, not 512 and 2; leave them out",
        ),
        ("{fsq_levels: [8, 5], codebook_dim: 32}", "codebook_dim of 2, not 40 and 32"),
        ("{normalise_codes: true, codebook_dim: 1}", "normalise_codes needs a codebook_dim of 2 or more"),
    ],
)
def test_a_bad_file_is_an_error_that_says_why(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        resolve("vqvae", file=write(tmp_path, text), flags={})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "text", "complaint"),
    [
        ("vae", "kind: ncp", "is for kind 'ncp', not for 'vae'"),
        ("ncp", "kind: vae", "is for kind 'vae', not for 'ncp'"),
        ("vae", "classifier_lr: 1", r"vae has no key 'classifier_lr'"),
        ("vae", "codebook_size: 8", r"vae has no key 'codebook_size'"),
        ("ncp", "clasifier_lr: 1", r"no key 'clasifier_lr'\. Did you mean 'classifier_lr'\?"),
        ("vae", "{image_size: 36, stride: 8}", "image_size 36 is no multiple of stride 8"),
        ("ncp", "{image_size: 36, stride: 8}", "image_size 36 is no multiple of stride 8"),
        ("vae", "{binarise: true, likelihood: mse}", "binarise takes the likelihood 'bernoulli', not 'mse'"),
        ("ncp", "{binarise: true, likelihood: gaussian}", "'bernoulli', not 'gaussian'"),
        ("vae", "likelihood: cauchy", "likelihood is 'cauchy': input should be 'mse', 'gaussian' or 'bern"),
        ("vae", "upsampling: bilinear", "input should be 'transposed', 'nearest' or 'shuffle'"),
        ("vae", "rotations: 181", "rotations is 181: input should be less than or equal to 180"),
        ("vae", "beta: -1", "beta is -1: input should be greater than or equal to 0"),
        ("vae", "free_bits: -1", "free_bits is -1: input should be greater than or equal to 0"),
        ("vae", "latent_dim: 0", "latent_dim is 0: input should be greater than or equal to 1"),
        ("vae", "stride: 3", "stride is 3: input should be 2, 4, 8, 16, 32, 64 or 128"),
        ("ncp", "classifier_epochs: 0", "classifier_epochs is 0: input should be greater than or equal to 1"),
        ("ncp", "classifier_dropout: 1", "classifier_dropout is 1: input should be less than 1"),
    ],
)
def test_so_is_one_for_the_gaussian_kinds(tmp_path: Path, kind: str, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        resolve(kind, file=write(tmp_path, text), flags={})


def test_the_contrast_of_the_classifier_is_trained_by_fields_of_its_own() -> None:
    config = tiny_models.ncp_config(lr=0.25, classifier_lr=0.5, clip_norm=3.0)
    own = config.classifier_schedule()
    assert (config.schedule().lr, own.lr, own.clip_norm) == (0.25, 0.5, 3.0)


def test_an_adversarial_loss_begins_before_the_last_step() -> None:
    config = tiny_models.config(adversarial=0.5, adversarial_start=8, epochs=2, batch_size=16)
    check_start(config, 80)
    with pytest.raises(ConfigError, match="--adversarial-start is step 8, but the run has 8"):
        check_start(config, 79)


@pytest.mark.parametrize(
    ("kind", "flags", "complaint"),
    [
        (
            "vqvae",
            {"perceptual_weight": 0.01},
            "^--perceptual-weight 0.01 has no effect: it needs --perceptual, and this run has "
            "--perceptual none$",
        ),
        (
            "vae",
            {"perceptual": "self", "perceptual_sha256": "a"},
            "needs --perceptual other than none or self",
        ),
        ("vae", {"adversarial_start": 0}, "--adversarial-start 0 has no effect: it needs --adversarial, and"),
        (
            "vqvae",
            {"adversarial": 0.5, "adversarial_adaptive": False, "adversarial_clamp": 9.0},
            "needs --adversarial-adaptive, and this run has --no-adversarial-adaptive",
        ),
        ("vqvae", {"adversarial": 0.5, "r1": 0, "r1_every": 4}, "--r1-every 4 has no effect: it needs --r1"),
        (
            "vqvae",
            {"prior_width": 64},
            "needs --prior-epochs or --prior-steps, and this run has --prior-epochs 0 and --prior-steps none",
        ),
        ("vqvae", {"prior_epochs": 1, "prior_steps": 9}, "--prior-epochs 1 .* needs --prior-steps none"),
        ("vqvae", {"epochs": 3, "steps": 9}, "--epochs 3 has no effect: it needs --steps none, and .* 9"),
        ("vqvae", {"level_dropout": 0.5}, "needs --levels other than 1 or --level-grids"),
        ("vqvae", {"update": "simvq", "decay": 0.9}, "needs --update gradient or ema, and .* --update simvq"),
        ("vqvae", {"fsq_levels": (8, 5), "restart_below": 0.1}, "needs --fsq-levels none, and .* 8,5"),
        ("vqvae", {"init_from": "runs/a", "kmeans_start": True}, "--kmeans-start has .* --init-from none"),
        ("vqvae", {"optimizer": "adamax", "weight_decay": 0.1}, "needs --optimizer adamw, and .* adamax"),
        ("vqvae", {"stride": 2, "stem_width": 8}, "needs --stride other than 2, and .* --stride 2"),
        ("vae", {"latent_channels": 2}, "needs --latent grid, and this run has --latent vector"),
        ("vae", {"latent": "grid", "latent_dim": 2}, "needs --latent vector, and this run has --latent grid"),
        ("vae", {"beta": 0.0, "free_bits": 0.1}, "needs --beta, and this run has --beta 0.0"),
        ("vlae", {"mixture": 3}, "needs --likelihood logistic, and this run has --likelihood bernoulli"),
        ("vlae", {"free_bits": 0, "free_bits_weighing": "soft"}, "needs --free-bits"),
        ("finetune", {"kl_weight": 1.0}, "needs --no-freeze-encoder, and this run has --freeze-encoder"),
    ],
)
def test_a_flag_without_effect_is_refused(kind: str, flags: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        check_effects(resolve(kind, flags={"name": "a"} | flags), flags)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        ("vqvae", {"perceptual": "self", "perceptual_weight": 0.01}),
        ("vqvae", {"prior_steps": 9, "prior_width": 64}),
        ("vqvae", {"level_grids": (1, 7), "level_dropout": 0.5}),
        ("vqvae", {"update": "gradient", "decay": 0.9, "weight_decay": 0.1}),
        # A vlae has neither --latent nor --beta.
        ("vlae", {"latent_dim": 8, "neck_width": 8, "free_bits": 0.1}),
        ("finetune", {"freeze_encoder": False, "commitment": 0.5}),
    ],
)
def test_a_flag_with_what_it_needs_is_allowed(kind: str, flags: dict[str, Any]) -> None:
    check_effects(resolve(kind, flags=flags), flags)


def test_a_preset_or_a_file_may_hold_values_without_effect(tmp_path: Path) -> None:
    file = write(tmp_path, "{perceptual: self, perceptual_weight: 0.01, prior_width: 64, guard_db: 2}")
    flags = {"perceptual": "none", "epochs": 3}
    check_effects(resolve("vqvae", preset="vqvae-pictures", file=file, flags=flags), flags)
    # Over steps of the preset, as --epochs is.
    flags = {"prior_epochs": 0, "epochs": 3}
    check_effects(resolve("vqvae", preset="vqvae-pictures", flags=flags), flags)


def test_what_a_field_needs_is_a_field_of_a_kind() -> None:
    fields = {name: info for kind in KINDS for name, info in config_class(kind).model_fields.items()}
    needed = {
        other
        for info in fields.values()
        for needs in info.metadata
        if isinstance(needs, Needs)
        for other in needs.values
    }
    assert {"adversarial", "update", "latent"} <= needed <= fields.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_what_may_be_given_anew_is_a_field(kind: str) -> None:
    config = config_class(kind)
    assert config.free_on_resume | config.second_stage_fields <= config.model_fields.keys()
    assert config.free_on_resume >= RunConfig.free_on_resume
    assert not config.free_on_resume & config.second_stage_fields


def test_how_long_a_second_stage_is_may_be_given_anew_and_what_it_is_until_it_begins() -> None:
    assert VAEConfig.free_on_resume == RunConfig.free_on_resume
    assert VAEConfig.second_stage_fields == frozenset()
    assert VQVAEConfig.free_on_resume - RunConfig.free_on_resume == {"prior_epochs", "prior_temperature"}
    assert NCPConfig.free_on_resume - RunConfig.free_on_resume == {"classifier_epochs"}
    fields = {name for name in NCPConfig.model_fields if name.startswith("classifier_")}
    assert NCPConfig.second_stage_fields == fields - {"classifier_epochs"}


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.yaml: No such file"):
        resolve("vqvae", file=tmp_path / "nothing.yaml", flags={})


def test_an_unknown_preset_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no preset 'vqvae-minst'.*Did you mean 'vqvae-mnist'\?"):
        resolve("vqvae", preset="vqvae-minst", flags={})


def test_a_config_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        tiny_models.config().epochs = 3


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_described(kind: str) -> None:
    fields = config_class(kind).model_fields
    assert [name for name, field in fields.items() if not field.description and name != "kind"] == []


values: dict[str, st.SearchStrategy[Any]] = {
    "name": st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True),
    "data": st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1),
    "image_size": st.none() | st.integers(1, 100).map(lambda steps: 32 * steps),
    "limit": st.none() | st.integers(1, 10**9),
    "lr": st.floats(min_value=0, max_value=10, exclude_min=True),
    "final_lr": st.floats(0, 1),
    "seed": st.integers(0, 2**32 - 1),
    "precision": st.sampled_from(["auto", "32", "bf16"]),
    "stride": st.sampled_from([2, 4, 8, 16, 32]),
    "out": st.sampled_from([Path("runs"), Path("/with space/1e5"), Path("yes")]),
    "kmeans_start": st.booleans(),
    "fsq_levels": st.none() | st.lists(st.integers(3, 20), min_size=1, max_size=4).map(tuple),
}


@pytest.mark.slow
@settings(deadline=None)
@given(st.fixed_dictionaries({"name": values.pop("name")}, optional=values))
def test_a_config_survives_yaml(given_values: dict[str, Any]) -> None:
    config = VQVAEConfig(**given_values)
    with tempfile.TemporaryDirectory() as folder:
        file = write(Path(folder), yaml.safe_dump(config.model_dump(mode="json")))
        assert validated("vqvae", read_yaml(file)) == config


def test_the_file_of_a_loss_is_found_from_anywhere_and_known_by_its_sha256(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "vgg16.pth"
    file.write_bytes(b"weights")
    monkeypatch.chdir(tmp_path)
    config = tiny_models.config(perceptual="vgg16.pth")
    assert config.perceptual_file == file
    with pytest.raises(DataError, match=r"vgg16\.pth has the sha256 9a129038.*--perceptual-sha256"):
        config.check_files()
    tiny_models.config(
        perceptual=str(file), perceptual_sha256=hashlib.sha256(b"weights").hexdigest()
    ).check_files()
    with pytest.raises(DataError, match="--perceptual is 'slef': none, self or a file is allowed"):
        tiny_models.config(perceptual="slef").check_files()
    assert tiny_models.config(perceptual="self").perceptual_file is None


def test_a_config_uses_a_part_if_one_of_its_values_is_no_default() -> None:
    assert not tiny_models.config(epochs=9).uses(LossesConfig)
    assert tiny_models.vae_config(frequency_weight=1.0).uses(LossesConfig)
