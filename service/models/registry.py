"""The registry: the served models, found, loaded, chosen, and replaced without downtime.

A reload loads new and changed bundles beside the served models and then replaces all of them at once. A
running request keeps its model; a replaced model is freed after its last request. A bundle that fails
validation is refused with the reason; if an earlier version of it is served, that version stays.
"""

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

from pydantic import Field

from service.errors import (
    ModelNotChosen,
    ModelRefused,
    ModelsUnreadable,
    NotReady,
    UnknownModel,
    did_you_mean,
    quoted,
    unknown,
)
from service.models.bundle import read_bundle, read_fingerprint, read_manifest
from service.models.model import BatchLimits, ServedModel
from service.models.validation import load_model
from service.runtime import memory
from service.runtime.providers import Provider

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Refusal:
    """A bundle that is not served, and why."""

    name: str
    reason: str


@dataclass
class Reload:
    """What a reload did, by the names of the bundles.

    - ``loaded``: new or changed, and served now
    - ``kept``: served as before, because unchanged or refused this time (then in ``refused`` too)
    - ``refused``: not loaded, with the reason
    - ``removed``: served before, and without a folder now
    - ``good``: the version of every valid bundle, which must be equal in all workers
    """

    loaded: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    good: Annotated[dict[str, str], Field(exclude=True)] = field(default_factory=dict)


class Registry:
    """The served models of a folder of bundles. Several threads may use it.

    - ``models``: the served models by name; a reload replaces the mapping and never changes it
    - ``default``: the name of the model for requests that name none; None if there is no such model
    - ``refused``: the bundles that the last reload refused
    """

    def __init__(
        self,
        folder: Path,
        provider: Provider,
        batch_limits: BatchLimits = BatchLimits(),  # noqa: B008 - frozen
        default: str | None = None,
    ) -> None:
        self.provider = provider
        self.refused: tuple[Refusal, ...] = ()
        self._folder = folder
        self._batch_limits = batch_limits
        self._default = default
        self.models: Mapping[str, ServedModel] = MappingProxyType({})
        self.default = default
        # Loaded by a reload, and not yet served.
        self._prepared: tuple[Mapping[str, ServedModel], Reload] | None = None
        self._reloading = threading.Lock()

    def choose(self, name: str | None = None) -> ServedModel:
        """The model with a name, or the default model. Raises UnknownModel, ModelNotChosen or NotReady."""
        models = self.models
        if not models:
            raise NotReady(f"no model is loaded{self.why_not()}")
        # Not self.default, which a reload in another thread may have changed meanwhile.
        wanted = name if name is not None else self._default_of(models)
        if wanted is None:
            detail = f"several models are served, choose one with ?model=: {', '.join(models)}"
            raise ModelNotChosen(detail, allowed=list(models))
        if wanted not in models:
            raise unknown("model ", wanted, models, UnknownModel)
        return models[wanted]

    def _default_of(self, models: Mapping[str, ServedModel]) -> str | None:
        if self._default is not None:
            return self._default
        return next(iter(models)) if len(models) == 1 else None

    def why_not(self) -> str:
        """Why no model is loaded: ``": NAME: REASON; ..."``."""
        reasons = "; ".join(f"{each.name}: {each.reason}" for each in self.refused)
        return f": {reasons}" if reasons else ": there is no bundle in the models folder"

    def reload(self) -> Reload:
        """Read the folder again and replace the models: ``prepare`` and ``commit``. Reloads do not overlap.

        Raises ModelsUnreadable, and changes nothing, if the folder cannot be listed.
        """
        with self._reloading:
            outcome = self.prepare()
            self.commit()
            return outcome

    def prepare(self) -> Reload:
        """Load and warm up the models that ``commit`` will serve; until then nothing changes.

        Raises ModelsUnreadable if the folder cannot be listed.
        """
        before, outcome = self.models, Reload()
        after: dict[str, ServedModel] = {}
        for path in self._folders():
            old = model = before.get(path.name)
            try:
                model = self._fresh(path, old)
                outcome.good[path.name] = model.manifest.version
            except ModelRefused as error:
                log.error("model %s is refused: %s", path.name, error)
                outcome.refused.append(Refusal(path.name, str(error)))
            if model is not None:
                after[path.name] = model
                (outcome.kept if model is old else outcome.loaded).append(path.name)
        outcome.removed = [name for name in before if name not in after]
        self.abandon()
        self._prepared = MappingProxyType(after), outcome
        return outcome

    def commit(self) -> None:
        """Serve the prepared models, if there are any. Takes no time."""
        if self._prepared is None:
            return
        (after, outcome), self._prepared = self._prepared, None
        before, self.models = self.models, after
        self.default = self._default_of(after)
        for name, model in before.items():
            if after.get(name) is not model:
                memory.release_after(model)
        self.refused = tuple(outcome.refused)
        self._report(outcome)

    def abandon(self) -> None:
        """Drop the prepared models."""
        if self._prepared is not None:
            (after, _), self._prepared = self._prepared, None
            for name, model in after.items():
                if self.models.get(name) is not model:
                    memory.release_after(model)

    def _folders(self) -> list[Path]:
        try:
            # A hidden folder is an unfinished publication.
            return sorted(
                path for path in self._folder.iterdir() if path.is_dir() and not path.name.startswith(".")
            )
        except OSError as error:
            raise ModelsUnreadable(f"the models folder cannot be read: {error.strerror}") from error

    def _fresh(self, path: Path, old: ServedModel | None) -> ServedModel:
        """The model of a folder: the old one if the folder is unchanged. Raises ModelRefused."""
        if old is not None and read_fingerprint(path, read_manifest(path)) == old.bundle.fingerprint:
            return old
        return load_model(read_bundle(path), self.provider, self._batch_limits)

    def _report(self, outcome: Reload) -> None:
        for name in outcome.loaded:
            manifest = self.models[name].manifest
            where = f"{self.provider.name}: {self.provider.reason}"
            log.info("model %s (%s) version %s runs on %s", name, manifest.kind, manifest.version, where)
        for name in outcome.removed:
            log.info("model %s is removed", name)
        if self._default is not None and self._default not in self.models:
            near = did_you_mean(self._default, self.models)
            log.warning("the default model %s is not loaded%s", quoted(self._default), near)
