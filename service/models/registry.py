"""The registry: the served models, found, loaded, chosen, and replaced without downtime.

A reload loads new and changed bundles beside the served models and then replaces all of them at once. A
running request keeps its model; a replaced model is freed after its last request. A bundle that fails
validation is refused with the reason; if an earlier version of it is served, that version stays.
"""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from service.errors import (
    ModelNotChosen,
    ModelNotLoaded,
    ModelRefused,
    ModelsUnreadable,
    NotReady,
    UnknownModel,
    unknown,
)
from service.models.bundle import read_bundle, read_fingerprint, read_manifest
from service.models.hub import local_folder
from service.models.hub.reference import Reference, is_reference
from service.models.model import BatchLimits, ServedModel
from service.models.reload import Refusal, Reload, report
from service.models.validation import load_model
from service.runtime import memory
from service.runtime.providers import Provider


def find_bundles(sources: Sequence[str | Path]) -> tuple[dict[str, Path], list[Refusal]]:
    """The folders of all models in the sources, by name, and a refusal of each of the hub that is no model.

    A source is a folder of bundles or ``hf://owner/name[@revision]``, which is downloaded. Raises
    ModelsUnreadable if a folder cannot be listed, a download fails or two models have the same name.
    """
    found: list[tuple[str, Path]] = []
    refused: list[Refusal] = []
    for source in map(str, sources):
        if not is_reference(source):
            found += [(_text(path.name), path) for path in _folders(Path(source))]
            continue
        try:
            folder = local_folder(source)
            found.append((read_manifest(folder).name, folder))
        except ModelRefused as error:
            refused.append(Refusal(Reference.parse(source).name, str(error)))
    folders: dict[str, Path] = {}
    for name, path in found:
        if name in folders:
            raise ModelsUnreadable(f"two of the sources have a model {name!r}; remove one of them")
        folders[name] = path
    return folders, refused


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder of bundles. Raises ModelsUnreadable."""
    try:
        # A hidden folder is an unfinished publication.
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise ModelsUnreadable(f"the models folder cannot be read: {error.strerror}") from error


def _text(name: str) -> str:
    """The name of a folder, with escapes for bytes that are not UTF-8: no response could have them."""
    return name.encode(errors="backslashreplace").decode()


class Registry:
    """The served models of some sources (``find_bundles``). Several threads may use it.

    - ``models``: the served models by name; a reload replaces the mapping and never changes it
    - ``default``: the name of the model for requests that name none; None if there is no such model
    - ``outcome``: what the last reload did
    """

    def __init__(
        self,
        sources: Sequence[str | Path],
        provider: Provider,
        batch_limits: BatchLimits = BatchLimits(),  # noqa: B008 - frozen
        default: str | None = None,
    ) -> None:
        self.provider = provider
        self.outcome = Reload()
        self._sources = sources
        self._batch_limits = batch_limits
        self._default = default
        self.models: Mapping[str, ServedModel] = MappingProxyType({})
        self.default = default
        # Loaded by a reload, and not yet served.
        self._prepared: tuple[Mapping[str, ServedModel], Reload] | None = None
        self._reloading = threading.Lock()

    @property
    def refused(self) -> tuple[Refusal, ...]:
        """The bundles that the last reload refused."""
        return tuple(self.outcome.refused)

    def choose(self, name: str | None = None) -> ServedModel:
        """The model with a name, or the default model.

        Raises UnknownModel, ModelNotChosen, NotReady without any model, or ModelNotLoaded if its bundle was
        refused.
        """
        models = self.models
        # Not self.default, which a reload in another thread may have changed meanwhile.
        wanted = name if name is not None else self._default_of(models)
        for each in self.refused:
            if each.name == wanted and wanted not in models:
                detail = f"model {wanted!r} is not loaded, because its bundle was refused: {each.reason}"
                raise ModelNotLoaded(detail, given=wanted, reason=each.reason)
        if not models:
            raise NotReady(f"no model is loaded{self.why_not()}")
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
        """Read the sources again and replace the models: ``prepare`` and ``commit``; and log what changed.

        Reloads do not overlap. Raises ModelsUnreadable, and changes nothing, as ``find_bundles``.
        """
        with self._reloading:
            outcome = self.prepare()
            self.commit()
            report(outcome, self._sources, self._default)
            return outcome

    def prepare(self) -> Reload:
        """Load and warm up the models that ``commit`` will serve; until then nothing changes.

        Raises ModelsUnreadable as ``find_bundles``.
        """
        folders, refused = find_bundles(self._sources)
        before, outcome = self.models, Reload(refused=refused)
        after: dict[str, ServedModel] = {}
        for name, path in sorted(folders.items()):
            old = model = before.get(name)
            try:
                model = self._fresh(path, old)
                outcome.good[name] = model.manifest.version
            except ModelRefused as error:
                outcome.refused.append(Refusal(name, str(error)))
            if model is not None:
                after[name] = model
                outcome.kinds[name] = model.manifest.kind
                (outcome.kept if model is old else outcome.loaded).append(name)
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
        self.outcome = outcome

    def abandon(self) -> None:
        """Drop the prepared models."""
        if self._prepared is not None:
            (after, _), self._prepared = self._prepared, None
            for name, model in after.items():
                if self.models.get(name) is not model:
                    memory.release_after(model)

    def _fresh(self, path: Path, old: ServedModel | None) -> ServedModel:
        """The model of a folder: the old one if the folder is unchanged. Raises ModelRefused."""
        if old is not None and read_fingerprint(path, read_manifest(path)) == old.bundle.fingerprint:
            return old
        return load_model(read_bundle(path), self.provider, self._batch_limits)
