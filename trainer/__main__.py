"""Train models and export them for the service.

    python -m trainer vqvae --epochs 30                the whole thing on MNIST: half an hour on 2 cores
    python -m trainer vqvae --epochs 1 --limit 5000    the same in 25 seconds, to see it work
    python -m trainer vqvae --data ~/pictures --image-size 64 --name mine
    python -m trainer vqvae --resume                   go on after Ctrl-C
    python -m trainer ncp                              a beta-VAE, then its noise contrastive prior
    python -m trainer export runs/vqvae-mnist          publish the latest checkpoint of a run
    python -m trainer sample runs/vqvae-mnist --image FILE     an image above its reconstruction
    python -m trainer evaluate exported/vqvae-mnist    measure a published model in full

Each trains in a run folder below runs/, and publishes the model below exported/, where the service finds it:

    python -m service
    python -m trainer vqvae --reload http://127.0.0.1:8000     have a running service load it at the end
"""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import click
from click.core import ParameterSource

try:
    from rich.console import Console
except ModuleNotFoundError as error:  # a package installed without its extra has the command nonetheless
    missing = f"the trainer needs packages that are not installed ({error.name})"
    sys.exit(f"error: {missing}: install the extra 'trainer'")

from service.contract import __version__
from trainer.cli import KindCommand, going_on, reload_option, same_command
from trainer.config import read_yaml, resolve
from trainer.errors import Terminated, TrainerError, nearest
from trainer.kinds import KINDS


class Commands(click.Group):
    """A command for each kind, made on first use, and those for runs and published models.

    The error for an unknown command names the nearest one.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, sorted."""
        return sorted([*super().list_commands(ctx), *KINDS])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name, or None."""
        if cmd_name in KINDS:
            return KindCommand(cmd_name, callback=partial(_train, cmd_name))
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of the first argument."""
        names = self.list_commands(ctx)
        if args and args[0] not in names and not args[0].startswith("-"):
            ctx.fail(
                f"no kind or command {args[0]!r}; there are {', '.join(names)}.{nearest(args[0], names)}"
            )
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, help=__doc__.replace("\n\n    ", "\n\n\b\n    "), no_args_is_help=True)
@click.version_option(__version__, prog_name="tessera-train")
def main() -> None:
    """Train models and export them for the service; the module's docstring is the help."""


def _train(
    kind: str, preset: str | None, config: Path | None, resume: bool, reload: str | None, **given: Any
) -> None:
    source = click.get_current_context().get_parameter_source
    flags = {name: value for name, value in given.items() if source(name) is not ParameterSource.DEFAULT}
    console = _console()
    with _clear_errors():
        resolved = resolve(kind, preset=preset, file=config, flags=flags)
        # Imported late: torch takes seconds, which neither --help nor a mistyped flag should cost.
        from trainer import pipeline

        if resume:
            asked = (read_yaml(config) if config else {}) | flags
            pipeline.resume(kind, resolved.out, resolved.name, asked, console)
        else:
            pipeline.train(resolved, console)
        _have_loaded(reload, resolved.name, console)


def _have_loaded(service: str | None, name: str, console: Console) -> None:
    if service is not None:
        from trainer.export.reload import have_loaded

        with going_on(lambda: True, f"curl -X POST {service}/models/reload"):
            console.print(have_loaded(service, name))


@main.command("export", short_help="Publish the latest checkpoint of a run.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--export-to", type=click.Path(path_type=Path), help="publish as DIR/NAME [default: the run's]")
@click.option("--name", help="of the exported model [default: the run's]")
def export(run: Path, export_to: Path | None, name: str | None, reload: str | None) -> None:
    """Publish the model of the latest checkpoint of RUN, a run folder."""
    console = _console()
    with _clear_errors():
        from trainer import pipeline

        exported = pipeline.export_run(run, export_to, name, console)
        _have_loaded(reload, exported.manifest.name, console)


@main.command("sample", short_help="Write images above their reconstructions.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--image", "files", type=click.Path(path_type=Path), multiple=True, help="a picture; repeatable"
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("pair.png"),
    show_default=True,
    help="the PNG",
)
def sample(run: Path, files: tuple[Path, ...], out: Path) -> None:
    """Write originals above their reconstructions by the latest checkpoint of RUN, a run folder.

    Without --image, the originals are the first test images of the run's data.
    """
    with _clear_errors():
        from trainer import reconstruct

        reconstruct.write_pairs(run, files, out, _console())


@main.command("evaluate", short_help="Measure a published model in full.")
@click.argument("exported", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="print the metrics as JSON, and nothing else")
@click.option("--data", help="as for training  [default: the data the model was trained on]")
@click.option(
    "--samples",
    # All pairs of distances are in memory: 1.6 GB for 10,000.
    type=click.IntRange(min=10, max=20_000),
    default=10_000,
    show_default=True,
    help="of each method",
)
@click.option(
    "--nll-samples",
    type=click.IntRange(min=2),
    default=128,
    show_default=True,
    help="importance samples of an image",
)
@click.option(
    "--nll-images", type=click.IntRange(min=1), default=10_000, show_default=True, help="test images, at most"
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="of all noise")
@click.option(
    "--set", "sets", multiple=True, metavar="METHOD.NAME=VALUE", help="a parameter of a method; repeatable"
)
@click.option(
    "--write/--no-write",
    default=True,
    show_default=True,
    help="metrics into manifest and card",
)
def evaluate(
    exported: Path,
    as_json: bool,
    data: str | None,
    sets: tuple[str, ...],
    write: bool,
    reload: str | None,
    **effort: int,
) -> None:
    """Measure EXPORTED, a published model, through ONNX Runtime, as the service will run it."""
    with _clear_errors():
        from trainer import evaluate
        from trainer.evaluation.results import Effort

        console = Console(stderr=True, quiet=True) if as_json else _console()
        manifest = evaluate.evaluate(
            exported, data, Effort(**effort), evaluate.sampler_parameters(sets), console, write=write
        )
        if as_json:
            click.echo(json.dumps([row.model_dump() for row in manifest.measures], indent=2))
        if write:
            _have_loaded(reload, manifest.name, console)


def _console() -> Console:
    # The file is named, as a live line goes on while torch's exporter has sys.stdout.
    return Console(file=sys.stdout, highlight=False, soft_wrap=True)


@contextmanager
def _clear_errors() -> Iterator[None]:
    """Print an error of the user's in one line and exit; on SIGTERM unwind, so that unfinished files go."""
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except TrainerError as error:
        _end(str(error), error.exit_code)
    except KeyboardInterrupt as stop:
        number = signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT
        _end(f"interrupted. To start again: {same_command()}", 128 + number)
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(_number: int, _frame: object) -> NoReturn:
    raise Terminated


def _end(message: str, exit_code: int) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    sys.exit(exit_code)


for _publishing in (export, evaluate):
    _publishing.params.append(reload_option())

if __name__ == "__main__":
    main(prog_name="python -m trainer")
