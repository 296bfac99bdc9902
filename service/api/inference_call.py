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
from service.models.model import Model
from service.models.pipeline import Number, Operations
from service.models.request_parameters import Label


class Call(NamedTuple):
    """A chain of operations of a model, with all that a caller may set.

    In the operations ``still``, noise that has a default is that, whatever the seed.
    """

    model: Model
    chain: tuple[str, ...]
    values: Mapping[str, Number]
    seed: int
    still: Collection[str]
    label: Label | Sequence[Label] | None

    @property
    def operations(self) -> Operations:
        """The operations, in order."""
        return self.model.operations(self.chain)

    @property
    def draws(self) -> bool:
        """Whether its noise is drawn, so that the seed means something."""
        return self.operations.draws(self.still)

    async def run(self, context: Context, rows: int, given: Arrays) -> Results:
        """Run the operations on ``rows`` rows; what was given and what came out. Raises TooLarge."""
        most = context.settings.max_steps
        for axis in self.operations.steps:
            # The noise of a sampler has an axis of as many steps.
            if (steps := int(self.values[axis])) > most:
                raise too_large(f"{axis} is {steps}", steps, most, "max_steps")
        labels = request_parameters.labels(self.model.manifest, self.operations, self.label, rows)
        inputs = given if labels is None else {**given, Role.label: labels}
        return await context.scheduler.run(
            self.model, self.chain, inputs, rows, self.values, self.seed, self.still
        )


def choose_model(context: Context, query: Named, sent: Named | None = None) -> Model:
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
        context.scheduler.check(model, model.chain(verb))


def _agreed(what: str, queried: str | None, sent: str | None) -> str | None:
    if queried is not None and sent is not None and queried != sent:
        raise BadValue(
            f"the query names {what} {quoted(queried)} and the body {quoted(sent)}", given=[queried, sent]
        )
    return sent if queried is None else queried


def make_call(
    model: Model,
    chain: tuple[str, ...],
    parameters: Mapping[str, Any],
    *,
    seed: int | None = None,
    still: Collection[str] = (),
    label: Label | Sequence[Label] | None = None,
    others: Iterable[str] = (),
) -> Call:
    """A call with its parameters checked and its seed drawn if none was given. Raises as ``arguments``."""
    operations = model.operations(chain)
    values = request_parameters.parameters(operations, parameters, others)
    if seed is None:
        seed = request_parameters.draw_seed() if operations.draws(still) else 0
    return Call(model, chain, values, seed, still, label)
