"""The models that are served: found, loaded, chosen, and swapped while requests run.

A reload loads new and changed folders beside what is served and then swaps everything at once. Requests
that hold a model keep it; it goes when the last of them ends. A folder that does not verify is refused with
the reason; if an earlier version of it is served, that stays.
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
from service.models.bundle import read_fingerprint, read_folder, read_manifest
from service.models.model import Batching, Model
from service.models.validation import load_model
from service.runtime import memory
from service.runtime.providers import Provider

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Refusal:
    """A folder that is not served, and why."""

    name: str
    reason: str


@dataclass
class Reload:
    """What a reload did, by the names of the folders.

    ``kept`` are served as before: unchanged, or refused now and good earlier (then in ``refused`` too).
    ``good`` are the versions of the folders that verified, which are the same in every worker.
    """

    loaded: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    good: Annotated[dict[str, str], Field(exclude=True)] = field(default_factory=dict)


class Registry:
    """The served models of a folder. Safe to use from several threads."""

    def __init__(
        self,
        folder: Path,
        provider: Provider,
        batching: Batching = Batching(),  # noqa: B008 - frozen
        default: str | None = None,
    ) -> None:
        self.provider = provider
        self.refused: tuple[Refusal, ...] = ()
        self._folder = folder
        self._batching = batching
        self._default = default
        self._models: Mapping[str, Model] = MappingProxyType({})
        # What a reload has loaded and not yet swapped in.
        self._prepared: tuple[Mapping[str, Model], Reload] | None = None
        self._reloading = threading.Lock()

    @property
    def models(self) -> Mapping[str, Model]:
        """The served models by name; the mapping never changes, a reload makes a new one."""
        return self._models

    @property
    def default(self) -> str | None:
        """The model that answers when a request names none, if there is one."""
        if self._default is not None:
            return self._default
        models = self._models
        return next(iter(models)) if len(models) == 1 else None

    def choose(self, name: str | None = None) -> Model:
        """The model of a name, or the default. Raises UnknownModel, ModelNotChosen or NotReady."""
        models = self._models
        if not models:
            raise NotReady(f"no model is loaded{self.why_not()}")
        wanted = name if name is not None else self.default
        if wanted is None:
            raise ModelNotChosen(f"choose one with ?model=: {', '.join(models)}", allowed=list(models))
        if wanted not in models:
            raise unknown("model ", wanted, models, UnknownModel)
        return models[wanted]

    def why_not(self) -> str:
        """Why nothing is loaded: ``": NAME: REASON; ..."``."""
        reasons = "; ".join(f"{each.name}: {each.reason}" for each in self.refused)
        return f": {reasons}" if reasons else ": the models folder has no model in it"

    def reload(self) -> Reload:
        """Look at the folder again and swap: ``prepare`` and ``commit``. A second reload waits for the first.

        Raises ModelsUnreadable, changing nothing, if the folder itself cannot be listed.
        """
        with self._reloading:
            outcome = self.prepare()
            self.commit()
            return outcome

    def prepare(self) -> Reload:
        """Load and warm what ``commit`` will serve; until then nothing changes.

        Raises ModelsUnreadable if the folder itself cannot be listed.
        """
        before, outcome = self._models, Reload()
        after: dict[str, Model] = {}
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
        """Serve what was prepared, if anything was. Quick."""
        if self._prepared is None:
            return
        (after, outcome), self._prepared = self._prepared, None
        before, self._models = self._models, after
        for name, model in before.items():
            if after.get(name) is not model:
                memory.give_back_after(model)
        self.refused = tuple(outcome.refused)
        self._report(outcome)

    def abandon(self) -> None:
        """Forget what was prepared."""
        if self._prepared is not None:
            (after, _), self._prepared = self._prepared, None
            for name, model in after.items():
                if self._models.get(name) is not model:
                    memory.give_back_after(model)

    def _folders(self) -> list[Path]:
        try:
            # A name with a dot in front is a publication that is not finished.
            return sorted(
                path for path in self._folder.iterdir() if path.is_dir() and not path.name.startswith(".")
            )
        except OSError as error:
            raise ModelsUnreadable(f"the models folder cannot be read: {error.strerror}") from error

    def _fresh(self, path: Path, old: Model | None) -> Model:
        """The model of a folder: the old one if nothing changed. Raises ModelRefused."""
        if old is not None and read_fingerprint(path, read_manifest(path)) == old.folder.fingerprint:
            return old
        return load_model(read_folder(path), self.provider, self._batching)

    def _report(self, outcome: Reload) -> None:
        for name in outcome.loaded:
            manifest = self._models[name].manifest
            where = f"{self.provider.name}: {self.provider.reason}"
            log.info("model %s (%s) version %s runs on %s", name, manifest.kind, manifest.version, where)
        for name in outcome.removed:
            log.info("model %s is gone", name)
        if self._default is not None and self._default not in self._models:
            near = did_you_mean(self._default, self._models)
            log.warning("the default model %s is not loaded%s", quoted(self._default), near)
