"""Train models and export them for the service.

On MNIST: in half an hour on 2 cores, and in 25 seconds, to see it work:

    python -m trainer vqvae --epochs 30
    python -m trainer vqvae --epochs 1 --limit 5000

On your own pictures; the second goes on after Ctrl-C:

    python -m trainer vqvae --preset vqvae-pictures --data photos --name mine
    python -m trainer vqvae --name mine --resume

With what was trained:

    python -m trainer export runs/mine          publish the latest checkpoint
    python -m trainer sample exported/mine --label cats --n 16
    python -m trainer reconstruct exported/mine --image FILE
    python -m trainer evaluate exported/mine    measure it in full
    python -m trainer push exported/mine OWNER/NAME

With a tokenizer that others have trained:

    python -m trainer import sd-vae-ft-mse      publish the checkpoint
    python -m trainer finetune --init-from exported/sd-vae-ft-mse --data art

Each trains in a run folder below runs/, and publishes the model below exported/, where the service finds it.
A name that is taken there gets a number, or is an error if it was given with --name and not with --replace.

A running service loads the model at the end:

    python -m trainer vqvae --reload http://127.0.0.1:8000
"""

import os
import shlex
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from service.contract import __version__
from trainer.errors import ConfigError, clear_errors, needs
from trainer.kinds import KINDS

try:
    from rich.console import Console

    from trainer import durable
    from trainer.cli import (
        Commands,
        load_published,
        open_console,
        precision_option,
        reload_option,
        replace_option,
        same_command,
    )
    from trainer.config import (
        FINETUNE,
        LossesConfig,
        RunConfig,
        check_effects,
        laid_over,
        read_config,
        resolve,
        validated,
    )
    from trainer.data import loading
    from trainer.training import initial_weights
    from trainer.training.run_folder import RunFolder
except ModuleNotFoundError as error:  # a package installed without its extra has the command nonetheless
    sys.exit(f"error: {needs('the trainer', 'trainer', error.name)}")
except KeyboardInterrupt:  # the imports take most of a second
    sys.exit(128 + signal.SIGINT)

# The keys that say which run is resumed.
PLACE = ("name", "out")
# Of more, the picture is too large to look at.
MOST_SAMPLES = 1024


def _train(
    kind: str,
    preset: str | None,
    config: Path | None,
    resume: bool,
    replace: bool,
    reload: str | None,
    **given: Any,
) -> None:
    source = click.get_current_context().get_parameter_source
    flags = {name: value for name, value in given.items() if source(name) is not ParameterSource.DEFAULT}
    console = open_console()
    with clear_errors(same_command()):
        asked = laid_over(kind, read_config(kind, config) if config else {}, flags)
        named = "name" in asked
        if resume and named and preset:
            raise ConfigError(f"--preset {preset} has no effect: --resume takes the values of the run")
        if not (resume and named):
            preset = preset or _preset_for(kind, asked.get("data"), console)
        settle = partial(resolve, kind, preset=preset, file=config, flags=flags)
        # Nobody chose the preset's name, so if it is taken, the run gets another one.
        numbered = not named and not replace
        run = None
        if resume:
            # Of a preset, which need not be the run's, nothing counts but the name.
            place = resolve(kind, preset=preset, flags={key: asked[key] for key in PLACE if key in asked})
            run = RunFolder.latest(place.out, place.name, numbered=numbered)
            run.replace = replace
            # Raises RunError now if there is none, before torch is imported.
            run.latest_checkpoint()
        resolved = settle() if run is None else run.changed(kind, asked)
        # A resumed run has its steps as epochs, so the flags are laid over it as they were given.
        given_now = resolved if run is None else validated(kind, resolved.model_dump() | flags)
        check_effects(given_now, flags)
        _check(resolved, run, replace=replace or (numbered and run is None))
        if isinstance(resolved, LossesConfig) and resolved.uses(LossesConfig):
            resolved.check_files()
        # Imported late: torch takes seconds, which neither --help nor any mistake above should cost.
        from trainer import pipeline

        if run is not None:
            exported = pipeline.resume(run, resolved, console)
        else:
            exported = pipeline.train(
                resolved,
                console,
                settle=lambda images: settle(images=images),
                numbered=numbered,
                replace=replace,
            )
        load_published(reload, exported.manifest.name, console)


def _preset_for(kind: str, data: str | None, console: Console) -> str | None:
    """The preset for pictures, if the kind has one and ``data`` names pictures; None: the default one."""
    preset = KINDS[kind].pictures
    if preset is None or data is None or not loading.holds_pictures(str(data)):
        return None
    if os.environ.get("RANK", "0") == "0":
        console.print(f"preset: {preset}, as the data are pictures; another one is chosen with --preset")
    return preset


def _check(config: RunConfig, run: RunFolder | None, *, replace: bool) -> None:
    """Raise for what would end a run, or keep its model from being published, before it is begun."""
    if run is None and (config.init_from is not None or config.kind == FINETUNE):
        initial_weights.check(config, config.init_from)
    loading.check(config.data)
    if run is None:
        RunFolder.check(config)
    durable.check_writable(config.export_to)
    own = None if run is None else run.identity.id
    durable.check_replaceable(config.export_to / config.name, own, replace=replace)
    if config.wandb:
        from trainer.training.tracking import weights_and_biases

        weights_and_biases.check()


@click.group(
    cls=Commands, train=_train, help=__doc__.replace("\n\n    ", "\n\n\b\n    "), no_args_is_help=True
)
@click.version_option(__version__, prog_name="tessera-train")
def main() -> None:
    """Train models and export them for the service; the module's docstring is the help."""


@main.command("export", short_help="Publish the latest checkpoint of a run.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--export-to", type=click.Path(path_type=Path), help="publish as DIR/NAME [default: the run's]")
@click.option("--name", help="of the exported model [default: the run's]")
@click.option(
    "--stored-weights", type=click.Choice(["32", "16"]), help="bits of a stored weight [default: the run's]"
)
@click.option(
    "--publish-anyway",
    is_flag=True,
    default=None,
    help="even if its reconstructions are no nearer to the test images than the mean image is",
)
@precision_option("the run's")
def export(run: Path, replace: bool, reload: str | None, precision: str | None, **given: Any) -> None:
    """Publish the model of the latest checkpoint of RUN, a run folder."""
    console = open_console()
    with clear_errors(same_command()):
        opened = RunFolder.open(run)
        opened.replace = replace
        config = opened.published_as(export_precision=precision, **given)
        opened.latest_checkpoint()
        _check(config.model_copy(update={"wandb": False}), opened, replace=replace)
        from trainer import pipeline

        exported = pipeline.export_run(opened, config, console)
        load_published(reload, exported.manifest.name, console)


def _out(default: str) -> Callable[[Any], Any]:
    return click.option(
        "--out", type=click.Path(path_type=Path), default=Path(default), show_default=True, help="the picture"
    )


@main.command("reconstruct", short_help="Write images above their reconstructions.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--image", "files", type=click.Path(path_type=Path), multiple=True, help="a picture; repeatable"
)
@_out("reconstructions.png")
def reconstruct(model: Path, files: tuple[Path, ...], out: Path) -> None:
    """Write originals above their reconstructions by MODEL, a published model or the run folder of one.

    Without --image, the originals are the first test images of the data it was trained on.
    """
    with clear_errors(same_command()):
        from trainer import pictures
        from trainer.evaluation.published import Published

        pictures.write_reconstructions(Published.find(model), files, out, open_console())


@main.command("sample", short_help="Draw new images.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--method", help="of the model  [default: prior, or the only one]")
@click.option("--label", help="class to draw, by its name or index")
@click.option(
    "--n", "count", type=click.IntRange(1, MOST_SAMPLES), default=16, show_default=True, help="how many"
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="of all noise")
@click.option(
    "--set", "sets", multiple=True, metavar="NAME=VALUE", help="a parameter of the method; repeatable"
)
@_out("samples.png")
def sample(
    model: Path,
    method: str | None,
    label: str | None,
    count: int,
    seed: int,
    sets: tuple[str, ...],
    out: Path,
) -> None:
    """Draw images by MODEL, a published model or the run folder of one, and write them as one picture.

    A seed gives the same images as in the service.
    """
    with clear_errors(same_command()):
        from trainer import pictures
        from trainer.evaluation.published import Published

        published = Published.find(model)
        pictures.write_samples(published, method, label, count, seed, sets, out, open_console())


export.params += [replace_option(), reload_option()]

if __name__ == "__main__":
    # As it was typed, so that the commands in messages can be copied: plain python may be another one.
    main(prog_name=shlex.join([sys.orig_argv[0], "-m", "trainer"]))
