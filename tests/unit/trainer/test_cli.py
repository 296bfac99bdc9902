from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from trainer import cli
from trainer.cli import KindCommand
from trainer.config import VQVAEConfig, config_class
from trainer.kinds import KINDS


def command(kind: str = "vqvae") -> KindCommand:
    return KindCommand(kind, callback=lambda **_: None)


def parse(*arguments: str, kind: str = "vqvae") -> dict[str, Any]:
    return command(kind).make_context(kind, list(arguments)).params


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_has_a_flag_with_its_description(kind: str) -> None:
    options = {item.name: item for group in command(kind).groups.values() for item in group}
    for name, field in config_class(kind).model_fields.items():
        if name == "kind" or name in config_class(kind).without_flag:
            assert name not in options
            continue
        assert f"--{name.replace('_', '-')}" in options[name].opts
        assert field.description
        assert field.description in (options[name].help or "")


def test_the_help_shows_groups_bounds_and_the_defaults_of_the_default_preset() -> None:
    text = " ".join(CliRunner().invoke(command(), ["--help"]).output.split())
    for expected in (
        "Where the values come from:",
        "The vqvae model:",
        "Data, optimisation, machine, places:",
        "--stride [2|4|8|16|32]",
        "--epochs INTEGER passes over the training images (needs --steps none) [default: 30]",
        "--r1-every INTEGER steps from one R1 penalty to the next, which counts for all of them (1912.04958) "
        "(needs --adversarial and --r1) [default: 16]",
        "--image-size INTEGER height and width in pixels; none: the size of the data [default: none]",
        "--kmeans-start / --no-kmeans-start",
        "--fsq-levels INTEGER,... ",
        "[default: vqvae-mnist]",
    ):
        assert expected in text


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["--epochs", "3"], "epochs", 3),
        (["--lr", "1e-4"], "lr", 1e-4),
        (["--stride", "8"], "stride", 8),
        (["--precision", "32"], "precision", "32"),
        (["--image-size", "64"], "image_size", 64),
        (["--image-size", "none"], "image_size", None),
        (["--kmeans-start"], "kmeans_start", True),
        (["--no-kmeans-start"], "kmeans_start", False),
        (["--fsq-levels", "7,5, 5"], "fsq_levels", (7, 5, 5)),
        (["--fsq-levels", "8"], "fsq_levels", (8,)),
        (["--fsq-levels", "none"], "fsq_levels", None),
    ],
)
def test_a_flag_becomes_a_value_of_its_field(arguments: list[str], name: str, value: object) -> None:
    assert parse(*arguments)[name] == value


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["--likelihood", "gaussian"], "likelihood", "gaussian"),
        (["--binarise"], "binarise", True),
        (["--no-flips"], "flips", False),
        (["--stride", "128"], "stride", 128),
        (["--upsampling", "nearest"], "upsampling", "nearest"),
        (["--rotations", "10"], "rotations", 10.0),
        (["--classifier-epochs", "7"], "classifier_epochs", 7),
    ],
)
def test_so_do_those_of_the_gaussian_kinds(arguments: list[str], name: str, value: object) -> None:
    assert parse(*arguments, kind="ncp")[name] == value


def test_a_vae_has_no_flags_of_a_classifier() -> None:
    with pytest.raises(click.NoSuchOption):
        parse("--classifier-epochs", "7", kind="vae")


@pytest.mark.parametrize("kind", KINDS)
def test_a_flag_has_no_default_of_its_own(kind: str) -> None:
    given = command(kind).make_context(kind, []).params
    assert {name for name, value in given.items() if value is not None} == {"resume", "replace"}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--epochs", "0"], "'--epochs': '0': input should be greater than or equal to 1"),
        (["--epochs", "many"], "'--epochs': 'many': input should be a valid integer"),
        (["--epochs", "none"], "'--epochs': 'none': input should be a valid integer"),
        (["--stride", "5"], "'--stride': '5': input should be 2, 4, 8, 16 or 32"),
        (["--name", "A b"], "'--name': 'A b': string should match pattern"),
        (["--seed", "-1"], "'--seed': '-1': input should be greater than or equal to 0"),
        (["--fsq-levels", "8,x"], "'--fsq-levels': '8,x': input should be a valid integer"),
        (["--fsq-levels", "8,2"], "'--fsq-levels': '8,2': there should be one or more levels, each from 3"),
    ],
)
def test_a_bad_value_is_refused_by_the_bounds_of_its_field(arguments: list[str], complaint: str) -> None:
    with pytest.raises(click.BadParameter) as caught:
        parse(*arguments)
    assert complaint in caught.value.format_message()


def test_an_unknown_flag_is_told_with_the_nearest() -> None:
    with pytest.raises(click.NoSuchOption) as caught:
        parse("--epoch-s", "3")
    assert "--epochs" in caught.value.format_message()


@pytest.mark.parametrize(
    ("program", "service"),
    [
        ("python -m trainer", "python -m service"),
        (".venv/bin/python -m trainer", ".venv/bin/python -m service"),
        ("tessera-train", "tessera-serve"),
    ],
)
def test_commands_to_copy_have_the_name_by_which_the_program_was_called(program: str, service: str) -> None:
    with click.Context(click.Command("main"), info_name=program):
        assert cli.resuming(VQVAEConfig(name="mine")) == f"{program} vqvae --resume --name mine"
        lines = cli.next_commands(Path("my models/mine"), sampled=True)
    assert lines == [
        f"serve     {service} --models 'my models'",
        "reload    curl -X POST http://127.0.0.1:8000/models/reload",
        f"sample    {program} sample 'my models/mine'",
        f"evaluate  {program} evaluate 'my models/mine'",
    ]


def test_what_was_imported_has_no_data_to_evaluate_on() -> None:
    lines = cli.next_commands(Path("mine"), imported=True)
    assert lines[-2].endswith("evaluate mine --data PICTURES")
    assert lines[-1].endswith("finetune --init-from mine --data PICTURES")


def test_what_goes_on_publishes_where_the_first_command_would() -> None:
    elsewhere = VQVAEConfig(name="mine", out=Path("my runs"))
    resumed = "python -m trainer vqvae --resume --name mine --out 'my runs'"
    assert cli.resuming(elsewhere) == resumed
    context = command().make_context("python -m trainer", ["--replace", "--reload", "http://127.0.0.1:1/"])
    with context:
        assert cli.resuming(elsewhere) == f"{resumed} --replace --reload http://127.0.0.1:1"
