"""The commands of bulk encoding and their flags."""

from collections.abc import Callable
from typing import Any

import click
from pydantic import ValidationError

from service.bulk.options import FORMATS, Columns, Options, Pool
from service.bulk.work.views import TEN_CROP, VIEWS
from service.cli import complaint, option
from service.contract.cpu_count import available_cpus
from service.settings import Settings

# Settings of the service that a run has too.
SETTINGS = (
    "models",
    "provider",
    "precision",
    "tf32",
    "gpu_graph_bytes",
    "cpu_rows",
    "threads",
    "batch_size",
    "batch_pixels",
    "tile_pixels",
    "max_pixels",
    "max_decoded_pixels",
    "max_total_pixels",
)
# Decoders share the interpreter's lock; more than the CPUs help only where the files are far away.
MOST_DECODERS = 8


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def commands() -> None:
    """Encode a data set, or decode what was encoded, without a server.

    A run that was interrupted goes on when the same command is run again.
    """


def _common(function: Callable[..., None]) -> Callable[..., None]:
    """The flags of both commands, in order."""
    flags = [
        click.option("--model", metavar="NAME", required=True, help="Model, by the name of its folder."),
        click.option("--input", metavar="URI", required=True, help="What to read: a path or a URI."),
        click.option("--output", metavar="URI", required=True, help="Folder to write: new, or of this run."),
        click.option("--format", type=click.Choice(FORMATS), default="parquet", show_default=True,
                     help="What to write."),
        click.option("--decoders", metavar="N", type=click.IntRange(min=1), default=None,
                     help=f"Threads that read and decode. Unset: one for each CPU, up to {MOST_DECODERS}."),
        click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True,
                     help="One process, or a pool of actors on Ray."),
        click.option("--address", metavar="ADDRESS", help="Ray cluster. Unset: one on this machine."),
        click.option("--actors", metavar="N", type=click.IntRange(min=0), default=0,
                     help="Actors on Ray. Unset: one for each GPU, else as many as have CPUs."),
        click.option("--cpus-per-actor", metavar="N", type=click.IntRange(min=0), default=0,
                     help="CPUs of an actor. Unset: 1 beside a GPU, else 2."),
    ]  # fmt: skip
    for flag in reversed(flags):
        function = flag(function)
    return function


def _settings(command: click.Command) -> click.Command:
    """Add the flags of the settings to a command."""
    command.params.extend(each for name in SETTINGS if (each := option(name)) is not None)
    return command


@_settings
@commands.command()
@_common
@click.option("--shard-size", metavar="N", type=click.IntRange(min=1), default=4096, show_default=True,
              help="Pictures in a shard; a tar, and a row group of a table, are never divided.")  # fmt: skip
@click.option("--views", metavar="LIST", default="", help="Further views of each picture: flip, ten-crop.")
@click.option("--resize/--no-resize", default=True, show_default=True,
              help="Resize pictures to the size of the model; else they keep theirs.")  # fmt: skip
@click.option("--log-variance", is_flag=True, help="For a Gaussian model: beside the mean, its log-variance.")
@click.option("--image-column", metavar="NAME", help="Column of pictures, of tables. Unset: it is found.")
@click.option("--label-column", metavar="NAME", help="Column of labels, of tables. Unset: it is found.")
@click.option("--key-column", metavar="NAME", help="Column of keys, of tables. Unset: it is found.")
def encode(**flags: Any) -> None:
    """Encode pictures: a folder, a pattern, tar shards, Parquet, or a saved Hugging Face dataset."""
    views = tuple(sorted({each for each in flags.pop("views").split(",") if each}))
    if unknown := [each for each in views if each not in VIEWS]:
        raise click.UsageError(f"--views: there is no view {unknown[0]!r}; allowed are {', '.join(VIEWS)}")
    if TEN_CROP in views and not flags["resize"]:
        raise click.UsageError("--views ten-crop crops at the size of the model, so it needs --resize")
    _run("encode", flags, views)


@_settings
@commands.command()
@_common
def decode(**flags: Any) -> None:
    """Decode what encode has written, to pictures. The model must be the one that encoded."""
    _run("decode", flags)


def _run(verb: Any, flags: dict[str, Any], views: tuple[str, ...] = ()) -> None:
    given = {name: flags[name] for name in SETTINGS if flags[name] is not None}
    try:
        settings = Settings(**given)
    except ValidationError as error:
        raise click.UsageError("; ".join(complaint(item, given) for item in error.errors())) from error
    columns = Columns(*(flags.get(f"{name}_column") for name in ("image", "label", "key")))
    options = Options(
        flags["format"],
        flags.get("shard_size", 1),
        views,
        resize=flags.get("resize", True),
        log_variance=flags.get("log_variance", False),
        columns=columns,
    )
    pool = None
    if flags["engine"] == "ray":
        pool = Pool(flags["address"], flags["actors"], flags["cpus_per_actor"])
    decoders = flags["decoders"] or min(available_cpus(), MOST_DECODERS)
    # The extra is needed from here on, and not for help and for wrong flags.
    from service.bulk.job import Job
    from service.bulk.launch import launch

    launch(Job(verb, flags["model"], flags["input"], flags["output"], settings, options, decoders), pool)
