"""What a load of the models folder did: for the response of a reload, for the log, and to compare workers."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from service.errors import Problem, ReloadFailed, did_you_mean, quoted
from service.models.hub.reference import is_reference

log = logging.getLogger("service.models")


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
    - ``kinds``: the kind of each model that is served
    """

    loaded: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    good: Annotated[dict[str, str], Field(exclude=True)] = field(default_factory=dict)
    kinds: Annotated[dict[str, str], Field(exclude=True)] = field(default_factory=dict)


def report(outcome: Reload, sources: Sequence[str | Path], default: str | None) -> None:
    """Log what a load did, for the operator: one process does so for all workers.

    ``sources`` and ``default`` are the settings of the models and of the default model.
    """
    shown = ", ".join(str(each if is_reference(str(each)) else Path(each).absolute()) for each in sources)
    for name in outcome.loaded:
        log.info("model %s (%s) version %s is loaded", name, outcome.kinds[name], outcome.good[name])
    for name in outcome.removed:
        log.info("model %s is removed", name)
    for each in outcome.refused:
        stays = "; the version that was served stays" if each.name in outcome.kept else ""
        log.error("model %s is refused: %s%s", each.name, each.reason, stays)
    if outcome.kept and not (outcome.loaded or outcome.removed or outcome.refused):
        log.info("nothing has changed in %s", shown)
    if not outcome.kinds:
        what = "every bundle in %s is refused" if outcome.refused else "there is no bundle in %s"
        log.warning(
            f"no model is served: {what} (--models); train one there (python -m trainer vqvae) or copy one "
            "there, and reload (curl -X POST .../models/reload, or SIGHUP)",
            shown,
        )
    elif default is not None and default not in outcome.kinds:
        near = did_you_mean(default, outcome.kinds)
        log.warning("the default model %s is not loaded%s", quoted(default), near)


def disagreement(outcomes: Mapping[int, Any] | Mapping[str, Any]) -> Problem | None:
    """Why workers cannot swap: one could not prepare, or they would not all serve the same versions.

    ``outcomes`` has the Reload of each worker, or the exception that it raised. A worker may keep a model
    whose bundle is invalid now; a worker that started later may lack it. That is no disagreement.
    """
    for index, each in outcomes.items():
        if isinstance(each, Problem):
            return each
        if not isinstance(each, Reload):
            return ReloadFailed(f"worker {index} could not prepare: {each}; nothing was changed")
    if not outcomes:
        return ReloadFailed("no worker responds now; try again in a second")
    first, *others = outcomes.items()
    for index, each in others:
        if each.good != first[1].good:
            names = sorted(dict(set(each.good.items()) ^ set(first[1].good.items())))
            detail = f"workers {first[0]} and {index} do not agree on {', '.join(names)}; nothing was changed"
            return ReloadFailed(detail, models=names)
    return None
