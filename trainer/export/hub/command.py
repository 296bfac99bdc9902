"""``python -m trainer push``."""

from pathlib import Path

import click

from trainer.cli import open_console, same_command, serving
from trainer.errors import clear_errors


@click.command("push", short_help="Push a published model to the Hugging Face hub.")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("repository", metavar="OWNER/NAME")
@click.option(
    "--license",
    "license_id",
    default="unknown",
    show_default=True,
    metavar="ID",
    help="the license of the model by its identifier on the hub, such as mit",
)
@click.option("--private", is_flag=True, help="for a repository that is made: only its owner may read it")
def push_model(model: Path, repository: str, license_id: str, private: bool) -> None:
    """Push MODEL, a published model, into a repository of the hub, which is made if there is none.

    $HF_TOKEN is a key that may write there. The model card is the page of the repository.
    """
    with clear_errors(same_command()):
        from trainer.export.hub.push import push

        pushed = push(model, repository, license_id=license_id, private=private)
        console = open_console()
        console.print(f"pushed    {pushed.manifest.name}, version {pushed.manifest.version}")
        console.print(f"serve     {serving(pushed.source)}")
