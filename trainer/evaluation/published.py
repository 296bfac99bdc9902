"""A published model, and what may be asked of it: all that is checked before torch is imported.

It is found by its own folder, or by the run folder of the run that made it.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from service.contract.manifest import FILE_NAME, Manifest
from service.contract.runner import parameters_of
from trainer.config import RunConfig
from trainer.config.weight_files import checked_sha256
from trainer.data import loading
from trainer.errors import ConfigError, DataError, ExportError, RunError, nearest
from trainer.evaluation.exported_model import SAMPLE, ExportedModel, open_exported
from trainer.training.run_folder import CONFIG, RunFolder

# By sha256: the network with which FID was defined, as pytorch-fid and torch-fidelity publish it.
FID_WEIGHTS = {
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2": "pt_inception-2015-12-05-6726825d.pth"
}

SamplerParameters = Mapping[str, Mapping[str, float]]
"""The parameters that replace the defaults of each sampling method, by method and name."""


@dataclass(frozen=True)
class Published:
    """A published model, and the run that made it if its folder is here."""

    folder: Path
    model: ExportedModel
    manifest: Manifest
    run: RunFolder | None

    @classmethod
    def find(cls, path: Path) -> "Published":
        """The model in a folder, or the one that a run published.

        Raises ExportError if ``path`` is neither, and RunError if the run has published nothing.
        """
        if (path / CONFIG).is_file():
            run = RunFolder.open(path)
            return cls(run.published, *open_exported(run.published), run)
        if not (path / FILE_NAME).is_file():
            if not path.exists():
                beside = [entry.name for entry in path.parent.glob("*/")]
                raise ExportError(f"{path} does not exist.{nearest(path.name, beside, path.parent)}")
            raise ExportError(f"{path} is no model and no run folder: it has no {FILE_NAME} and no {CONFIG}")
        model, manifest = open_exported(path)
        return cls(path, model, manifest, _run_of(path, manifest))

    def data(self, given: str | None) -> str:
        """Where the data is: as ``given``, or as the run had it. Raises DataError if it is not there."""
        if given is not None:
            loading.check(given)
            return given
        if self.run is None and not trained_here(self.manifest):
            raise DataError(
                f"it is not known what {self.manifest.name} was trained on: "
                "evaluate takes pictures with --data, reconstruct with --image"
            )
        # A manifest is public, so it has only the name of the data; the path is in the run folder.
        source = str(self.manifest.config.get("data")) if self.run is None else self.run.config.data
        try:
            loading.check(source)
        except DataError as error:
            way = "" if self.run else ", or give the run folder instead of the model"
            raise DataError(
                f"{self.manifest.name} was trained on {source!r}, which is not found here: "
                f"say where it is with --data{way}"
            ) from error
        return source


def trained_here(manifest: Manifest) -> bool:
    """Whether this trainer made the model, and so knows by name which data it was trained on."""
    # The data of an import are the pictures on which it was compared with torch.
    return "checkpoint" not in manifest.config


class FidWeights(NamedTuple):
    """The weights of the network of FID, and the sha256 of the file."""

    file: Path
    sha256: str


def fid_weights(file: Path, sha256: str | None) -> FidWeights:
    """Check the weights' file: its sha256 is the one given, or known. Raises DataError if it is not."""
    return FidWeights(file, checked_sha256("--fid-weights", file, sha256, FID_WEIGHTS))


def _run_of(folder: Path, manifest: Manifest) -> RunFolder | None:
    """The run that made a model, if it lies where runs lie by default."""
    if manifest.run is None:
        return None
    default = RunConfig.model_fields["out"].default
    for runs in (default, folder.absolute().parent.parent / default):
        with suppress(RunError, ConfigError):
            run = RunFolder.open(runs / manifest.run.name)
            if run.identity.id == manifest.run.id:
                return run
    return None


def sampler_parameters(texts: Sequence[str]) -> SamplerParameters:
    """Parse ``METHOD.NAME=VALUE``. Raises ConfigError for another form."""
    found: dict[str, dict[str, float]] = {}
    for text in texts:
        key, _, value = text.partition("=")
        method, _, name = key.partition(".")
        try:
            found.setdefault(method, {})[name] = float(value)
        except ValueError:
            raise ConfigError(f"--set takes METHOD.NAME=NUMBER, not {text!r}") from None
    return found


def check_parameters(model: ExportedModel, parameters: SamplerParameters) -> None:
    """Raise ConfigError for a method or a parameter that a model does not have, or a value out of bounds."""
    methods = [name.removeprefix(SAMPLE) for name in model.samplers]
    for method, values in parameters.items():
        if method not in methods:
            names = ", ".join(methods) or "none"
            raise ConfigError(
                f"there is no method {method!r} to set; there are {names}.{nearest(method, methods)}"
            )
        known = parameters_of(model.operations[name] for name in model.pipeline(SAMPLE + method))
        for name, value in values.items():
            if name not in known:
                names, hint = ", ".join(known) or "none", nearest(name, known)
                raise ConfigError(f"{method} has no parameter {name!r}; it has {names}.{hint}")
            low, high, dtype = known[name].minimum, known[name].maximum, known[name].dtype
            if not low <= value <= high or (dtype == "int64" and not value.is_integer()):
                raise ConfigError(f"{method}.{name} is {dtype} in {low:g} to {high:g}, not {value:g}")
