"""Initial weights from another model, instead of random ones: ``--init-from``.

A run folder has them in its latest checkpoint. A published model has them in its ONNX graphs, whose
initialisers have the names of the tensors in torch, and in its codebook.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from service.contract.manifest import Manifest
from trainer import durable
from trainer.cli import command
from trainer.config import FINETUNE, RunConfig
from trainer.errors import ConfigError, TrainerError
from trainer.kinds import KINDS
from trainer.training.run_folder import CONFIG, RunFolder

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.models.base import Model

# Tensors and keys that a message shows.
SHOWN = 3


class Initial(NamedTuple):
    """Where initial weights come from: a run, or a published model, with its kind and its config."""

    path: Path
    kind: str
    values: Mapping[str, Any]
    run: RunFolder | None
    manifest: Manifest | None


def check(config: RunConfig, path: Path | None) -> None:
    """Raise ConfigError if ``path`` has no weights for this kind, as far as is known without torch."""
    if path is None:
        if config.kind == FINETUNE:
            raise ConfigError("finetune starts from an imported model: name it with --init-from FOLDER")
        return
    initial = _find(path)
    if config.kind == FINETUNE:
        # Its config has found the architecture there.
        return
    if initial.kind not in KINDS:
        raise ConfigError(
            f"--init-from {path} is an imported {initial.kind}. To train it further: "
            f"{command(FINETUNE, '--init-from', path)}"
        )
    if KINDS[initial.kind].model != KINDS[config.kind].model:
        raise ConfigError(f"--init-from {initial.path} is of kind {initial.kind!r}, not {config.kind!r}")
    values = config.model_dump(mode="json")
    for field in sorted(config.same_as_initial):
        here = values[field]
        there = initial.values.get(field, type(config).model_fields[field].default)
        if here != there:
            flag = f"--{field.replace('_', '-')}"
            raise ConfigError(
                f"{flag} is {here}, and --init-from {initial.path} has {there}: give the same, or start from "
                "another model"
            )


def load(config: RunConfig, path: Path, model: "Model") -> None:
    """Give a new model of a config the weights of a run or a published model.

    Tensors named in ``Model.anew`` stay as they are: they belong to the training, not to the network. Raises
    ConfigError, which names what does not fit, and the keys of the config that differ.
    """
    initial = _find(path)
    own = {name: tensor for name, tensor in model.state_dict().items() if name not in model.anew}
    try:
        theirs = _of_run(initial.run, own) if initial.run is not None else _of_graphs(initial, own)
    except (TrainerError, MemoryError, ModuleNotFoundError):
        raise
    except Exception as error:  # onnx, protobuf and safetensors each have their own of a damaged file
        said = " ".join(str(error).split())
        raise ConfigError(f"--init-from {initial.path} cannot be read: {said}") from error
    wrong = [f"{name} is missing there" for name in own if name not in theirs]
    wrong += [
        f"{name} is {list(theirs[name].shape)} there and {list(tensor.shape)} here"
        for name, tensor in own.items()
        if name in theirs and theirs[name].shape != tensor.shape
    ]
    if wrong:
        why = f"{_listed(wrong)}{_differences(initial, config)}"
        if initial.run is None and not theirs.keys() >= own.keys():
            why += (
                ". What the graphs of a published model lack, its run folder has"
                if initial.kind in KINDS
                else f". Import its checkpoint once more: {initial.values['checkpoint']['file']}"
            )
        raise ConfigError(f"--init-from {initial.path} does not fit this model: {why}")
    model.load_state_dict({name: theirs[name] for name in own}, strict=False)


def _find(path: Path) -> Initial:
    if (path / CONFIG).is_file():
        run = RunFolder.open(path)
        run.latest_checkpoint()
        return Initial(path, run.config.kind, run.config.model_dump(mode="json"), run, None)
    manifest = durable.read_published(path)
    if manifest is None:
        raise ConfigError(f"--init-from {path} is neither a run folder nor a published model")
    return Initial(path, manifest.kind, manifest.config, None, manifest)


def _of_run(run: RunFolder, wanted: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    # Late, as in _of_graphs: torch takes seconds to import, and ``check`` needs none of it.
    from safetensors.torch import load_file

    from trainer.training.checkpoint import AVERAGE, WEIGHTS

    folder = run.exported_checkpoint()
    averaged = folder / AVERAGE
    found = load_file(averaged if averaged.exists() else folder / WEIGHTS)
    # The code vectors of SimVQ are a product, as they are published.
    for name in [name for name in found if name.endswith(".layer") and name not in wanted]:
        codebook = f"{name.removesuffix('layer')}codebook"
        found[codebook] = found[codebook] @ found[name]
    return found


def _of_graphs(initial: Initial, wanted: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """The tensors of the graphs whose names, less the module around the model, are wanted."""
    from safetensors.torch import load_file

    from trainer.export.stored_weights import read_weights

    assert initial.manifest is not None  # noqa: S101 - for mypy
    found: dict[str, Tensor] = {}
    for operation in ("encode", "decode"):
        stored = read_weights(initial.path / initial.manifest.operations[operation].graph)
        for stored_name, tensor in stored.items():
            parts = stored_name.split(".")
            names = (".".join(parts[start:]) for start in range(len(parts)))
            if (name := next((name for name in names if name in wanted), None)) is not None:
                found[name] = tensor
    if (book := initial.manifest.codebook) is not None:
        places = [name for name in wanted if name.endswith(".codebook")]
        codebook = load_file(initial.path / book.file)[book.tensor]
        # Of residual codes there is one for each level, in order.
        books = codebook.unbind() if codebook.ndim > 2 else [codebook] * len(places)
        found |= dict(zip(places, books, strict=True))
    return found


def _differences(initial: Initial, config: RunConfig) -> str:
    """The keys of the kind, rather than of every run, that differ."""
    differing = [
        f"{key} is {initial.values[key]!r} there and {value!r} here"
        for key, value in config.model_dump(mode="json").items()
        if key not in RunConfig.model_fields and initial.values.get(key, value) != value
    ]
    return f". Of the config, {_listed(differing, len(differing))}" if differing else ""


def _listed(found: list[str], most: int = SHOWN) -> str:
    return "; ".join(found[:most]) + (f"; and {len(found) - most:,} more" if len(found) > most else "")
