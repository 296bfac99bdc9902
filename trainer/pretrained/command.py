"""The command ``import``."""

from pathlib import Path

import click

from service.contract.measures import Precision
from trainer.cli import (
    load_published,
    open_console,
    precision_option,
    reload_option,
    replace_option,
    same_command,
)
from trainer.config import ImportConfig
from trainer.errors import clear_errors
from trainer.pretrained.families import FAMILIES


@click.command("import", short_help="Publish the tokenizer of a pretrained checkpoint.")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--family", metavar="NAME", help=f"{', '.join(FAMILIES)}  [default: by the config]")
@click.option("--name", help="of the published model  [default: by PATH]")
@click.option(
    "--image-size",
    type=click.IntRange(4, 4096),
    help="native height and width in pixels  [default: the checkpoint's]",
)
@click.option(
    "--export-to",
    type=click.Path(path_type=Path),
    default=ImportConfig.model_fields["export_to"].default,
    show_default=True,
    help="publish as DIR/NAME",
)
@precision_option("32")
def import_model(
    path: Path,
    family: str | None,
    name: str | None,
    image_size: int | None,
    export_to: Path,
    precision: Precision | None,
    replace: bool,
    reload: str | None,
) -> None:
    """Publish the tokenizer of PATH, a folder with a config and safetensors, or the file of the tensors.

    Nothing of a checkpoint is executed. The graphs are compared with torch on drawn pictures.
    """
    with clear_errors(same_command()):
        from trainer.pretrained.importer import import_checkpoint

        console = open_console()
        exported = import_checkpoint(
            path,
            console,
            family=family,
            name=name,
            image_size=image_size,
            export_to=export_to,
            precision=precision or "32",
            replace=replace,
        )
        load_published(reload, exported.manifest.name, console)


import_model.params += [replace_option(), reload_option()]
