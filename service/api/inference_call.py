"""From a request to a run of a model: which model, which operations, with what, and then the run."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from starlette.types import Scope

from service.api.content_negotiation import header
from service.api.dependencies import Context
from service.api.schemas import Named
from service.contract.manifest import Role
from service.contract.runner import Arrays, Results
from service.errors import BadValue, VersionConflict, quoted, too_large
from service.models import request_parameters
from service.models.model import ServedModel
from service.models.pipeline import Number, Pipeline
from service.models.request_parameters import Label


class Call(NamedTuple):
    """A pipeline of a model, with all that a request may set.

    The operations named in ``default_noise`` use the default noise of every input that has one.
    """

    model: ServedModel
    pipeline: Pipeline
    values: Mapping[str, Number]
    seed: int
    default_noise: Collection[str]
    label: Label | Sequence[Label] | None

    @property
    def draws(self) -> bool:
        """Whether a run draws noise from the seed."""
        return self.pipeline.draws(self.default_noise)

    async def run(self, context: Context, rows: int, given: Arrays) -> Results:
        """Run the pipeline on ``rows`` rows; what was given and what came out. Raises TooLarge."""
        most = context.settings.max_steps
        for axis in self.pipeline.steps:
            # The noise of a sampler has an axis of as many steps.
            if (steps := int(self.values[axis])) > most:
                raise too_large(f"{axis} is {steps}", steps, most, "max_steps")
        labels = request_parameters.labels(self.model.manifest, self.pipeline, self.label, rows)
        inputs = given if labels is None else {**given, Role.label: labels}
        return await context.scheduler.run(
            self.model, self.pipeline, inputs, rows, self.values, self.seed, self.default_noise
        )


def choose_model(context: Context, query: Named, sent: Named | None = None) -> ServedModel:
    """The model that the query or the body names, or the default.

    Raises BadValue if the two disagree, VersionConflict if either has another version than is served, and
    what ``Registry.choose`` raises.
    """
    name = _agreed("model", query.model, None if sent is None else sent.model)
    version = _agreed("version", query.version, None if sent is None else sent.version)
    model = context.registry.choose(name)
    if version is not None and version != model.manifest.version:
        detail = (
            f"the request is for version {quoted(version)} of {model.manifest.name!r}, "
            f"and version {model.manifest.version!r} is served"
        )
        raise VersionConflict(detail, given=version, allowed=model.manifest.version)
    return model


def check_room(context: Context, query: Named, verb: str, scope: Scope) -> None:
    """Refuse a call for which there is no room before its body is read, which may name a model if it is JSON.

    Raises Overloaded, and as ``choose_model``.
    """
    if not context.scheduler.is_full:
        return
    media = header(scope, b"content-type") or ""
    if query.model is not None or media.startswith(("image/", "application/x-npy")):
        model = choose_model(context, query)
        context.scheduler.check(model, model.pipeline(verb))


def _agreed(what: str, queried: str | None, sent: str | None) -> str | None:
    if queried is not None and sent is not None and queried != sent:
        raise BadValue(
            f"the query names {what} {quoted(queried)} and the body {quoted(sent)}", given=[queried, sent]
        )
    return sent if queried is None else queried


def make_call(
    model: ServedModel,
    pipeline: Pipeline,
    parameters: Mapping[str, Any],
    *,
    seed: int | None = None,
    default_noise: Collection[str] = (),
    label: Label | Sequence[Label] | None = None,
    others: Iterable[str] = (),
) -> Call:
    """A call with its parameters checked and its seed drawn if none was given. Raises as ``arguments``."""
    values = request_parameters.parameters(pipeline, parameters, others)
    if seed is None:
        seed = request_parameters.draw_seed() if pipeline.draws(default_noise) else 0
    return Call(model, pipeline, values, seed, default_noise, label)
