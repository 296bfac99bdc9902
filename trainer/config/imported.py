"""The configs of an import: that of a checkpoint's family, and what is published of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.contract.manifest import NAME_PATTERN
from trainer.errors import ConfigError, nearest


def inside(values: Mapping[str, Any], *keys: str) -> Any:
    """The value under the keys, one in the other; None if there is none."""
    found: Any = values
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def model_arguments(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments of the model in the config of a training run, or ``values`` if it has no such part.

    ``model.params`` is that of taming-transformers, ``model.init_args`` that of Lightning.
    """
    parts = [inside(values, "model", key) for key in ("params", "init_args")]
    return next((part for part in parts if isinstance(part, Mapping)), values)


class CheckpointConfig(BaseModel):
    """The config of a checkpoint, by its family: a subclass has a field for each key that matters.

    ``irrelevant`` are further keys that a config may have, and that change nothing about what is served: of
    training, say. Keys that begin with ``_`` are notes of the library that wrote them. Any other key is an
    error: what it means is not known, so the outputs would be wrong.
    """

    irrelevant: ClassVar[frozenset[str]] = frozenset()

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @classmethod
    def of(cls, values: Mapping[str, Any], source: str) -> Self:
        """The config with these values, from ``source``. Raises ConfigError, which names what is wrong."""
        kept = {
            key: value
            for key, value in values.items()
            if not key.startswith("_") and key not in cls.irrelevant
        }
        try:
            return cls.model_validate(kept)
        except ValidationError as error:
            problems = "; ".join(cls._explained(dict(problem)) for problem in error.errors())
            raise ConfigError(f"{source}: {problems}") from error

    @classmethod
    def _explained(cls, problem: dict[str, Any]) -> str:
        said = str(problem["msg"]).removeprefix("Value error, ")
        if not problem["loc"]:
            return said
        key = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            return f"unknown field {key!r}.{nearest(key, cls.model_fields)}"
        if problem["type"] == "missing":
            return f"the field {key!r} is missing"
        if isinstance(problem["input"], Mapping):
            return f"{key}: {said}"
        return f"{key} is {problem['input']!r}: {said[0].lower()}{said[1:]}"


class ImportConfig(BaseModel):
    """What is published of an import; all but ``export_to`` is in the manifest.

    ``checkpoint`` has the name and the sha256 of the file of the weights, ``architecture`` the config of the
    family with every default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    name: str = Field(pattern=f"^{NAME_PATTERN}$")
    image_size: int = Field(ge=1)
    seed: int = 0
    export_to: Path = Path("exported")
    checkpoint: dict[str, str]
    architecture: dict[str, Any]
