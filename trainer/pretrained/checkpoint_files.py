"""Reads the files of a checkpoint: its config and its tensors. Nothing in them is executed."""

import hashlib
import json
import pickle
import re
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

from trainer.config.imported import SHAPES
from trainer.errors import CheckpointError

CONFIGS = ("config.json", "config.yaml", "config.yml")
YAML = (".yaml", ".yml")
SAFETENSORS = ".safetensors"
PICKLES = (".ckpt", ".pt", ".pth", ".bin")
# A whole pipeline of diffusers has this file, and its autoencoder in a folder.
PIPELINE, PIPELINE_PART = "model_index.json", "vae"
# A checkpoint may be in two files, NAME_encoder and NAME_decoder.
ENCODER, DECODER = "encoder", "decoder"
PART = re.compile(f"(?:^|[-_])(?P<part>{ENCODER}|{DECODER})$")
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
    """The files of a checkpoint: its tensors, and its config if it has one.

    If the tensors are in two files, ``weights`` is that of the encoder; those two have no config.
    """

    weights: Path
    config: Path | None
    decoder: Path | None = None

    @classmethod
    def find(cls, path: Path) -> "CheckpointFiles":
        """The files of a checkpoint: ``path`` is a folder, or the file of the tensors.

        The files of an encoder and of its decoder are found by either of them. Of several files of tensors in
        a folder, those in half precision (``NAME.fp16.safetensors``), pickles, and an encoder and its decoder
        in two files are passed over. Raises CheckpointError if there is none, or there are several.
        """
        if not path.exists():
            raise CheckpointError(f"{path} does not exist")
        if path.is_file():
            if path.suffix not in (SAFETENSORS, *PICKLES):
                raise CheckpointError(
                    f"{path} is no checkpoint: its name ends in none of {SAFETENSORS}, {', '.join(PICKLES)}"
                )
            return cls._of(path, _config_in(path.parent))
        if (path / PIPELINE).is_file():
            raise CheckpointError(f"{path} is a whole pipeline: give its autoencoder, {path / PIPELINE_PART}")
        return cls._of(_weights_in(path), _config_in(path))

    @classmethod
    def _of(cls, weights: Path, config: Path | None) -> "CheckpointFiles":
        pair = _pair(weights)
        if pair is None:
            return cls(weights, config)
        missing = next((path for path in pair if not path.is_file()), None)
        if missing is None:
            return cls(pair[0], None, pair[1])
        if config is None:
            raise CheckpointError(f"{weights} is half of a checkpoint: {missing.name} is not beside it")
        return cls(weights, config)

    @property
    def source(self) -> str:
        """Where the tensors are, for messages."""
        return str(self.weights) if self.decoder is None else f"{self.weights} with {self.decoder.name}"

    @property
    def description(self) -> dict[str, str]:
        """The name of the file of the tensors, and its sha256; of two files those of both."""
        found = {"file": self.weights.name, "sha256": _digest(self.weights)}
        if self.decoder is not None:
            found |= {"decoder_file": self.decoder.name, "decoder_sha256": _digest(self.decoder)}
        return found

    def read_config(self) -> dict[str, Any]:
        """The keys and values of the config; nothing if there is none. Raises CheckpointError.

        Of two files it has the shapes of the tensors, by their names, under ``SHAPES``.
        """
        if self.decoder is not None:
            return {SHAPES: {name: tuple(tensor.shape) for name, tensor in self.read_tensors().items()}}
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

        The names of tensors in two files begin with ``encoder.`` or ``decoder.``.

        Raises CheckpointError if a file is damaged, or holds anything else.
        """
        if self.decoder is None:
            found = _tensors(self.weights, inside)
        else:
            parts = {ENCODER: self.weights, DECODER: self.decoder}
            found = {
                f"{part}.{name}": tensor
                for part, path in parts.items()
                for name, tensor in _tensors(path, inside).items()
            }
        return {name: tensor.float() if tensor.dtype in FLOATS else tensor for name, tensor in found.items()}


def _tensors(path: Path, inside: Sequence[str]) -> dict[str, Tensor]:
    return _safetensors(path) if path.suffix == SAFETENSORS else _pickled(path, inside)


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file: {_one_line(error)}") from error


def _pickled(path: Path, inside: Sequence[str]) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_EMPTY):
            # torch may warn before it refuses a pickle; the error below says enough.
            warnings.simplefilter("ignore")
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and plain values, or is damaged, and is not loaded, "
            "as loading could run code in it: save its state dict as safetensors"
        ) from error
    except _DAMAGE as error:
        raise CheckpointError(f"{path} is damaged: {_one_line(error)}") from error
    for key in inside:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path} is no state dict: it holds more than tensors by name")
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
        fitting = [path for path in fitting if "." not in path.stem] or fitting
        whole = [path for path in fitting if _pair(path) is None]
        if not whole:
            # Either file of an encoder and its decoder stands for both.
            whole = fitting[:1] if len({_pair(path) for path in fitting}) == 1 else fitting
        if len(whole) > 1:
            names = ", ".join(path.name for path in whole)
            raise CheckpointError(f"{folder} has several files of tensors, {names}: give one of them")
        if whole:
            return whole[0]
    raise CheckpointError(
        f"{folder} has no file of tensors: none ends in {SAFETENSORS}, {', '.join(PICKLES)}"
    )


def _pair(path: Path) -> tuple[Path, Path] | None:
    """The files of an encoder and of its decoder, by either of them; None if the name is of neither."""
    if (found := PART.search(path.stem)) is None:
        return None
    name = path.stem[: found.start("part")]
    encoder, decoder = (path.with_name(f"{name}{part}{path.suffix}") for part in (ENCODER, DECODER))
    return encoder, decoder


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
