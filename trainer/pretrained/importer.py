"""From a checkpoint to a published model: read, recognise, build, load, verify, publish."""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from service.contract.manifest import NAME_PATTERN
from service.contract.measures import Precision
from trainer import durable
from trainer.cli import next_commands, warn
from trainer.config import CheckpointConfig, ImportConfig
from trainer.data.sources.pictures import LongStep
from trainer.errors import CheckpointError, ConfigError
from trainer.export.exporter import Exported, export
from trainer.pretrained.architectures.base import Architecture
from trainer.pretrained.checkpoint_files import PART, CheckpointFiles
from trainer.pretrained.drawn_pictures import drawn_pictures
from trainer.pretrained.families import Family, recognised
from trainer.pretrained.pretrained_model import PretrainedModel
from trainer.pretrained.state_dict import fill
from trainer.training.device import limit_threads
from trainer.training.progress import in_silence, long_step

# At most this many pictures are compared, with at most this many pixels together; but never fewer than two.
PICTURES, PICTURES_PIXELS = 16, 2**19


def import_checkpoint(
    path: Path,
    console: Console,
    *,
    family: str | None = None,
    name: str | None = None,
    image_size: int | None = None,
    export_to: Path = Path("exported"),
    precision: Precision = "32",
    replace: bool = False,
) -> Exported:
    """Publish the tokenizer of a checkpoint, a folder or a file, as ``export_to / name``.

    ``family`` is recognised by the config if it is not given, ``name`` follows from the path, ``image_size``,
    in pixels, from the config. With a half ``precision`` there are graphs in it too, if they agree on the
    drawn pictures.

    Raises CheckpointError, ConfigError or ExportError, and then publishes nothing.
    """
    limit_threads()
    step: LongStep = partial(long_step, console)
    files = CheckpointFiles.find(path)
    raw = files.read_config()
    source = str(files.config or files.source)
    kind, row = recognised(raw, family, source)
    name = published_name(path) if name is None else name
    if re.fullmatch(NAME_PATTERN, name) is None:
        raise ConfigError(f"--name is {name!r}: it should match the pattern '^{NAME_PATTERN}$'")
    durable.check_writable(export_to)
    durable.check_replaceable(export_to / name, None, replace=replace)
    config = row.config_class().of(raw, source)
    model, checkpoint = load(files, row, config, image_size, step)
    console.print(f"model: {kind} with {sum(each.numel() for each in model.parameters()):,} parameters")
    published = ImportConfig(
        kind=kind,
        name=name,
        image_size=model.image_size,
        export_to=export_to,
        checkpoint=dict(checkpoint),
        architecture=config.model_dump(mode="json"),
    )
    spec = model.image_spec()
    count = max(2, min(PICTURES, PICTURES_PIXELS // (spec.height * spec.width)))
    pictures = drawn_pictures(spec, count)
    exported = export(
        model, None, published, pictures, replace=replace, measured=False, precision=precision, step=step
    )
    console.print(f"published {exported.folder} (version {exported.manifest.version}). Next:")
    console.print("\n".join(f"  {line}" for line in next_commands(exported.folder, imported=True)))
    warn(console, exported.refused)
    return exported


def load(
    files: CheckpointFiles,
    family: Family,
    config: CheckpointConfig,
    image_size: int | None = None,
    step: LongStep = in_silence,
) -> tuple[PretrainedModel, Mapping[str, str]]:
    """The model of a checkpoint, and the description of its file.

    Raises CheckpointError if the tensors do not fit the config, and ConfigError if the size does not.
    """
    # The meta device allocates nothing: the checkpoint replaces every tensor.
    with torch.device("meta"):
        architecture: Architecture = family.architecture_class()(config)
    size = image_size or architecture.size
    if architecture.multiple_of is None:
        allowed = size == architecture.size
        rule = f"it takes images of {architecture.size}x{architecture.size} pixels only"
    else:
        allowed, rule = not size % architecture.multiple_of, f"multiples of {architecture.multiple_of}"
    if not allowed:
        raise ConfigError(f"--image-size {size}: allowed are {rule}")
    with step("reading the checkpoint"):
        tensors: dict[str, Any] = files.read_tensors(family.inside)
        fill(architecture, tensors, family, files.source)
        description = files.description
    return PretrainedModel(architecture.eval(), size), description


def published_name(path: Path) -> str:
    """The name of the model of a checkpoint, by its path: ``[a-z0-9._-]``, at most 64 characters.

    That of ``NAME_encoder.pth`` is ``NAME``.

    Raises CheckpointError if the path has none of these characters.
    """
    resolved = path.resolve()
    stem = PART.sub("", resolved.stem) if resolved.is_file() else resolved.name
    name = re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")[:64]
    if not name:
        raise CheckpointError(f"{path} gives no name for the model: choose one with --name")
    return name
