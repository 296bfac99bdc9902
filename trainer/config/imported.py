"""The configs of an import: of a checkpoint's family, of what is published, and of training it further."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.contract.manifest import NAME_PATTERN
from trainer import durable
from trainer.config.adversarial import AdversarialConfig
from trainer.config.base import Needs, RunConfig
from trainer.config.losses import LossesConfig
from trainer.errors import ConfigError, nearest

FINETUNE: Final = "finetune"
OfEncoder = Needs(freeze_encoder=(False,))
# In the config that a checkpoint without one is given: the shapes of its tensors, by their names.
SHAPES: Final = "_shapes"


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


class Origin(BaseModel):
    """The imported model from which a fine-tuned one starts.

    ``name`` and ``version`` are those of the published model that was started from, or the name of the run;
    ``family`` is that of the import, ``checkpoint`` and ``architecture`` are as in ``ImportConfig``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str | None
    family: str
    channels: Literal[1, 3]
    image_size: int
    checkpoint: dict[str, str]
    architecture: dict[str, Any]

    @classmethod
    def of(cls, path: Path) -> Self:
        """That of a published import, of a published model that was fine-tuned, or of the run of one.

        Raises ConfigError if ``path`` is none of them.
        """
        with suppress(OSError, LookupError, TypeError, ValueError, yaml.YAMLError):
            if (run := path / "config.yaml").is_file():
                values = yaml.safe_load(run.read_text(encoding="utf-8"))
                return cls.model_validate({**values["origin"], "name": values["name"], "version": None})
            manifest = durable.read_published(path)
            if manifest is not None:
                config, image = manifest.config, manifest.image
                if (origin := config.get("origin")) is None:
                    origin = {key: config[key] for key in ("checkpoint", "architecture")}
                    origin |= {"family": manifest.kind, "channels": image.channels}
                now = {"name": manifest.name, "version": manifest.version, "image_size": image.height}
                return cls.model_validate({**origin, **now})
        raise ConfigError(
            f"--init-from {path} is no imported model, none that was fine-tuned, and not the run of one: "
            "finetune is for checkpoints that were published by import"
        )


class FinetuneConfig(AdversarialConfig, LossesConfig, RunConfig):
    """An imported model that is trained further.

    ``origin`` follows from ``init_from``, and is kept: a run goes on if that folder is gone.
    """

    without_flag: ClassVar[frozenset[str]] = frozenset({"origin"})
    decides: ClassVar[Mapping[str, tuple[str, ...]]] = {**RunConfig.decides, "init_from": ("origin",)}

    kind: Literal["finetune"] = FINETUNE

    origin: Origin | None = Field(
        default=None, description="the imported model and its architecture; found by init_from"
    )
    freeze_encoder: bool = Field(
        default=True,
        description="train the decoder alone, so that codes stay as they are; no: train the encoder too",
    )
    reconstruction: Literal["mse", "l1"] = Field(default="mse", description="reconstruction loss")
    kl_weight: Annotated[float, OfEncoder] = Field(
        default=1e-6,
        ge=0,
        description="weight of the KL divergence of a posterior, in nats for each value of an image "
        "(2112.10752, appendix G)",
    )
    commitment: Annotated[float, OfEncoder] = Field(
        default=0.25,
        ge=0,
        description="weight of the commitment loss of discrete codes",
    )
    crop: int | None = Field(
        default=None,
        ge=8,
        description="train on squares of this many pixels, of two at random places of an image the one that "
        "varies more; none, or as many as they have: on whole ones",
    )
    flips: bool = Field(default=False, description="mirror half of the training images, left to right")

    @model_validator(mode="before")
    @classmethod
    def _has_origin(cls, values: dict[str, Any]) -> dict[str, Any]:
        if values.get("origin") is not None or values.get("init_from") is None:
            return values
        origin = Origin.of(Path(values["init_from"]).expanduser())
        # Without a size, images get that of the import.
        return {"image_size": origin.image_size, **values, "origin": origin}

    def image_options(self) -> dict[str, Any]:
        """Those of an import: a filter that is bicubic, and its channels."""
        channels = None if self.origin is None else self.origin.channels
        return super().image_options() | {"filter": "bicubic", "channels": channels}
