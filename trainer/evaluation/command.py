"""The command ``evaluate``."""

import json
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.console import Console

from trainer.cli import load_published, open_console, reload_option, same_command
from trainer.errors import ConfigError, clear_errors

FLAGS = [
    click.Argument(["model"], type=click.Path(path_type=Path)),
    click.Option(["--json", "as_json"], is_flag=True, help="print the metrics as JSON, and nothing else"),
    click.Option(
        ["--data"],
        help="pictures to measure on, as for training  [default: the data the model was trained on]",
    ),
    click.Option(
        ["--split"],
        type=click.Choice(["test", "all"]),
        help="of data without a test part, what training holds out, or all pictures  "
        "[default: test; of an imported model, all]",
    ),
    click.Option(
        ["--images"], type=click.IntRange(min=1), help="measure the first N pictures  [default: all]"
    ),
    click.Option(
        ["--image-size"],
        type=click.IntRange(min=1),
        help="height and width in pixels that pictures are made to have, if the model takes several  "
        "[default: the model's own]",
    ),
    click.Option(
        ["--fid-weights", "fid_file"],
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="measure rFID too, with pt_inception-2015-12-05-6726825d.pth, which is not downloaded",
    ),
    click.Option(
        ["--fid-weights-sha256", "fid_sha256"],
        metavar="HEX",
        help="the sha256 that FILE must have  [default: that of the file of this name]",
    ),
    click.Option(
        ["--samples"],  # All pairs of distances are in memory: 1.6 GB for 10,000.
        type=click.IntRange(min=10, max=20_000),
        default=10_000,
        show_default=True,
        help="of each method",
    ),
    click.Option(
        ["--nll-samples"],
        type=click.IntRange(min=2),
        default=128,
        show_default=True,
        help="importance samples of an image",
    ),
    click.Option(
        ["--nll-images"],
        type=click.IntRange(min=1),
        default=10_000,
        show_default=True,
        help="test images, at most",
    ),
    click.Option(["--seed"], type=click.IntRange(min=0), default=0, show_default=True, help="of all noise"),
    click.Option(
        ["--set", "sets"],
        multiple=True,
        metavar="METHOD.NAME=VALUE",
        help="a parameter of a method; repeatable",
    ),
    click.Option(
        ["--write/--no-write"],
        default=True,
        show_default=True,
        help="metrics into manifest and card",
    ),
    reload_option(),
]


@click.command("evaluate", short_help="Measure a published model in full.", params=FLAGS)
def evaluate(
    model: Path,
    as_json: bool,
    data: str | None,
    fid_file: Path | None,
    fid_sha256: str | None,
    sets: tuple[str, ...],
    write: bool,
    reload: str | None,
    **effort: Any,
) -> None:
    """Measure MODEL, a published model or the run folder of one, through ONNX Runtime, as the service."""
    given = click.get_current_context().get_parameter_source("reload") is ParameterSource.COMMANDLINE
    with clear_errors(same_command()):
        if given and not write:
            raise ConfigError("--reload has no effect beside --no-write, which publishes nothing to load")
        from trainer.evaluation.published import Published, check_parameters, fid_weights, sampler_parameters

        published, parameters = Published.find(model), sampler_parameters(sets)
        check_parameters(published.model, parameters)
        source = published.data(data)
        weights = None if fid_file is None else fid_weights(fid_file, fid_sha256)
        from trainer import evaluate
        from trainer.evaluation.results import Effort

        console = Console(stderr=True, quiet=True) if as_json else open_console()
        manifest = evaluate.evaluate(
            published.folder, source, Effort(**effort), parameters, console, write=write, weights=weights
        )
        if as_json:
            click.echo(json.dumps([row.model_dump() for row in manifest.measures], indent=2))
        if write:
            load_published(reload, manifest.name, console)
