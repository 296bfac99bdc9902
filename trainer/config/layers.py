"""How a config is put together.

It has three layers: the YAML of a preset, ``--config FILE.yaml``, and the flags. Each replaces values of the
one before. What a preset leaves to the data is settled once the training images are counted: values by their
number (``by_images``), and epochs from steps.
"""

import math
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from trainer.config.base import NONE, ON, Needs, Other, RunConfig
from trainer.errors import ConfigError, nearest
from trainer.kinds import KINDS

PRESETS = Path(__file__).parents[1] / "presets"
# A key of presets: the least number of training images, and the values that replace the others from there.
BY_IMAGES = "by_images"

C = TypeVar("C", bound=RunConfig)


def config_class(kind: str) -> type[RunConfig]:
    """The config class of a kind. Raises KeyError for an unknown one."""
    found: type[RunConfig] = pkgutil.resolve_name(KINDS[kind].config)
    return found


def presets(kind: str) -> list[str]:
    """Names of the presets of a kind."""
    return [path.stem for path in sorted(PRESETS.glob("*.yaml")) if read_yaml(path).get("kind") == kind]


def read_yaml(path: Path, flag: str = "") -> dict[str, Any]:
    """The keys and values of a YAML file. Raises ConfigError if it cannot be read as such.

    ``flag`` is what stands before the path in an error.
    """
    named = f"{flag} {path}".lstrip()
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{named}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{named} is no YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{named} holds a {type(content).__name__}, not keys and values")
    return content


def read_config(kind: str, file: Path) -> dict[str, Any]:
    """The keys and values of ``--config FILE.yaml``, for a kind.

    Raises ConfigError if it cannot be read, has an unknown key or is for another kind.
    """
    layer = read_yaml(file, "--config")
    check_keys(kind, layer, f"--config {file}")
    if layer.get("kind", kind) != kind:
        raise ConfigError(f"--config {file} is for kind {layer['kind']!r}, not for {kind!r}")
    return layer


def resolve(
    kind: str,
    *,
    preset: str | None = None,
    file: Path | None = None,
    flags: Mapping[str, Any],
    images: int | None = None,
) -> RunConfig:
    """The config of a run: flags over ``file`` over the preset, which is the kind's default one if not named.

    ``images`` is the number of training images, by which a preset may choose values; None before it is known.

    Raises ConfigError for an unknown preset or key, a value out of bounds, or a file for another kind.
    """
    preset = preset or KINDS[kind].preset
    if preset not in (names := presets(kind)):
        raise ConfigError(
            f"{kind} has no preset {preset!r}; it has {', '.join(names)}.{nearest(preset, names)}"
        )
    layers = {"name": preset, **_for_images(read_yaml(PRESETS / f"{preset}.yaml"), images)}
    if file is not None:
        layers = laid_over(kind, layers, read_config(kind, file))
    return validated(kind, laid_over(kind, layers, flags))


def in_epochs(config: C, images: int) -> C:
    """The config with as many epochs as make its ``steps``, of every stage that has any, and no ``steps``."""
    changes: dict[str, int | None] = {}
    for stage in config.stages_in_steps:
        steps = getattr(config, f"{stage}steps")
        if steps is not None:
            batch_size = min(getattr(config, f"{stage}batch_size"), images)
            changes |= {f"{stage}epochs": math.ceil(steps / (images // batch_size)), f"{stage}steps": None}
    return config.model_copy(update=changes)


def check_start(config: RunConfig, images: int) -> None:
    """Raise ConfigError if an adversarial loss would begin after the last step on so many images."""
    start = getattr(config, "adversarial_start", 0)
    steps = config.epochs * (images // min(config.batch_size, images))
    if getattr(config, "adversarial", 0) and start >= max(1, steps):
        raise ConfigError(
            f"--adversarial-start is step {start:g}, but the run has {steps}; give an earlier step, or below "
            f"1 a share of the steps"
        )


def _for_images(preset: Mapping[str, Any], images: int | None) -> dict[str, Any]:
    """The values of a preset for a number of training images; for the fewest if it is None."""
    values = {key: value for key, value in preset.items() if key != BY_IMAGES}
    for least, row in sorted(preset.get(BY_IMAGES, {}).items()):
        if images is not None and images >= least:
            values |= row
    return values


def laid_over(kind: str, below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``, less what a key given in ``above`` decides."""
    decides = config_class(kind).decides.items()
    decided = {name for key, names in decides if above.get(key) is not None for name in names}
    return {key: value for key, value in below.items() if key not in decided} | dict(above)


def check_keys(kind: str, layer: Mapping[str, Any], source: str) -> None:
    """Raise ConfigError if ``layer`` has a key that the kind's config lacks, naming the nearest it has."""
    fields = config_class(kind).model_fields
    for key in layer:
        if key not in fields:
            raise ConfigError(f"{source}: {kind} has no key {key!r}.{nearest(str(key), fields)}")


def check_effects(config: RunConfig, flags: Mapping[str, Any]) -> None:
    """Raise ConfigError for a flag that has no effect in a run of this config, naming what it needs."""
    for name, value in flags.items():
        for needs in needs_of(type(config), name):
            if not any(getattr(config, other) in values for other, values in needs.values.items()):
                here = " and ".join(as_flag(other, getattr(config, other)) for other in needs.values)
                raise ConfigError(
                    f"{as_flag(name, value)} has no effect: it needs {needed(needs)}, and this run has {here}"
                )


def needs_of(config: type[RunConfig], name: str) -> list[Needs]:
    """All that a field needs to have an effect."""
    fields = config.model_fields
    found = [each for each in fields[name].metadata if isinstance(each, Needs)]
    return [each for each in found if each.values.keys() <= fields.keys()]


def needed(needs: Needs) -> str:
    """What meets it, as flags: ``--adversarial``, or ``--update gradient or ema``."""
    found: list[str] = []
    for name, values in needs.values.items():
        flag = as_flag(name, *values)
        if isinstance(values, Other):
            flag, _, others = flag.partition(" ")
            flag += "" if values is ON else f" other than {others}"
        found.append(flag)
    return " or ".join(found)


def as_flag(name: str, *values: object) -> str:
    """A field with values, as a flag gives it: ``--batch-size 64``, or ``--no-flips``."""
    flag = name.replace("_", "-")
    if isinstance(values[0], bool):
        return f"--{flag}" if values[0] else f"--no-{flag}"
    return f"--{flag} {' or '.join(map(shown, values))}"


def shown(value: object) -> str:
    """A value as a flag gives it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return NONE if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def validated(kind: str, values: Mapping[str, Any]) -> RunConfig:
    """The frozen config with these values. Raises ConfigError, which names every value that is wrong."""
    try:
        return config_class(kind).model_validate(values)
    except ValidationError as error:
        # A default that follows from other values is not found while one of those is wrong.
        problems = (each for each in error.errors() if each["type"] != "default_factory_not_called")
        raise ConfigError("; ".join(_explain(dict(problem)) for problem in problems)) from error


def _explain(problem: dict[str, Any]) -> str:
    said = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return str(said)
    name = str(problem["loc"][0])
    if problem["type"] == "missing":
        return f"{name} is missing"
    return f"{name} is {problem['input']!r}: {said[0].lower()}{said[1:]}"
