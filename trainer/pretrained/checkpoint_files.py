"""Reads the files of a checkpoint: its config and its tensors. Nothing in them is executed."""

import hashlib
import json
import pickle
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from trainer.errors import CheckpointError

CONFIGS = ("config.json", "config.yaml", "config.yml")
YAML = (".yaml", ".yml")
SAFETENSORS = ".safetensors"
PICKLES = (".ckpt", ".pt", ".pth", ".bin")
# A whole pipeline of diffusers has this file, and its autoencoder in a folder.
PIPELINE, PIPELINE_PART = "model_index.json", "vae"
# Classes that published checkpoints name in their training state; serving needs nothing of them, so they are
# read as an empty class.
NAMED_CLASSES = ("argparse.Namespace", "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint")
# What torch raises for a pickle that is damaged.
_DAMAGE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
# Half precision and double: read as float32.
FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})


@dataclass(frozen=True)
class CheckpointFiles:
    """The files of a checkpoint: its tensors, and its config if it has one."""

    weights: Path
    config: Path | None

    @classmethod
    def find(cls, path: Path) -> "CheckpointFiles":
        """The files of a checkpoint: ``path`` is a folder, or the file of the tensors.

        Of several files of tensors in a folder, those in half precision (``NAME.fp16.safetensors``) and
        pickles are passed over. Raises CheckpointError if there is none, or there are several.
        """
        if not path.exists():
            raise CheckpointError(f"{path} does not exist")
        if path.is_file():
            if path.suffix not in (SAFETENSORS, *PICKLES):
                raise CheckpointError(
                    f"{path} is no checkpoint: its name ends in none of {SAFETENSORS}, {', '.join(PICKLES)}"
                )
            return cls(path, _config_in(path.parent))
        if (path / PIPELINE).is_file():
            raise CheckpointError(f"{path} is a whole pipeline: give its autoencoder, {path / PIPELINE_PART}")
        return cls(_weights_in(path), _config_in(path))

    @property
    def description(self) -> dict[str, str]:
        """The name of the file of the tensors, and its sha256."""
        with self.weights.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return {"file": self.weights.name, "sha256": digest}

    def read_config(self) -> dict[str, Any]:
        """The keys and values of the config; nothing if there is none. Raises CheckpointError."""
        if self.config is None:
            return {}
        try:
            text = self.config.read_text(encoding="utf-8")
            content = json.loads(text) if self.config.suffix == ".json" else yaml.safe_load(text)
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise CheckpointError(f"{self.config} cannot be read: {_one_line(error)}") from error
        if not isinstance(content, dict):
            raise CheckpointError(f"{self.config} holds a {type(content).__name__}, not keys and values")
        return content

    def read_tensors(self, inside: Sequence[str] = ()) -> dict[str, Tensor]:
        """The tensors by name; floats as float32.

        ``inside`` are keys under which a pickle may nest them, outermost first; those it lacks are skipped.
        A pickle is read with ``weights_only=True``, which refuses everything but tensors and plain values. Of
        ``NAMED_CLASSES`` nothing is imported.

        Raises CheckpointError if the file is damaged, or holds anything else.
        """
        found = self._safetensors() if self.weights.suffix == SAFETENSORS else self._pickled(inside)
        return {name: tensor.float() if tensor.dtype in FLOATS else tensor for name, tensor in found.items()}

    def _safetensors(self) -> dict[str, Tensor]:
        try:
            return load_file(self.weights)
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(
                f"{self.weights} is damaged or no safetensors file: {_one_line(error)}"
            ) from error

    def _pickled(self, inside: Sequence[str]) -> dict[str, Tensor]:
        try:
            with warnings.catch_warnings(), torch.serialization.safe_globals(_EMPTY):
                # torch may warn before it refuses a pickle; the error below says enough.
                warnings.simplefilter("ignore")
                content: Any = torch.load(self.weights, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise CheckpointError(
                f"{self.weights} holds more than tensors and plain values, or is damaged, and is not loaded, "
                "as loading could run code in it: save its state dict as safetensors"
            ) from error
        except _DAMAGE as error:
            raise CheckpointError(f"{self.weights} is damaged: {_one_line(error)}") from error
        for key in inside:
            if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
                content = content[key]
        if not isinstance(content, Mapping) or not all(
            isinstance(value, Tensor) for value in content.values()
        ):
            raise CheckpointError(f"{self.weights} is no state dict: it holds more than tensors by name")
        return dict(content)


class _Empty:
    """Replaces the classes of ``NAMED_CLASSES``; it takes any arguments."""

    def __init__(self, *_: object) -> None:
        pass


_EMPTY: list[Any] = [(_Empty, name) for name in NAMED_CLASSES]


def _config_in(folder: Path) -> Path | None:
    """The config in a folder: one of ``CONFIGS``, or else the only file in YAML; None if there is none."""
    others = [path for path in folder.iterdir() if path.suffix in YAML and path.is_file()]
    found = next((folder / name for name in CONFIGS if (folder / name).is_file()), None)
    return found or (others[0] if len(others) == 1 else None)


def _weights_in(folder: Path) -> Path:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    for suffixes in ((SAFETENSORS,), PICKLES):
        fitting = [path for path in files if path.suffix in suffixes]
        # NAME.fp16.safetensors stands beside NAME.safetensors.
        whole = [path for path in fitting if "." not in path.stem] or fitting
        if len(whole) > 1:
            names = ", ".join(path.name for path in whole)
            raise CheckpointError(f"{folder} has several files of tensors, {names}: give one of them")
        if whole:
            return whole[0]
    raise CheckpointError(
        f"{folder} has no file of tensors: none ends in {SAFETENSORS}, {', '.join(PICKLES)}"
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
