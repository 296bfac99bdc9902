"""From a request to a run of a model: which model, which operations, their parameters, the run."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from numpy.typing import NDArray
from starlette.requests import Request
from starlette.types import Scope

from service.api import request_bodies
from service.api.content_negotiation import header
from service.api.dependencies import Context
from service.api.request_bodies import ImagesBody
from service.api.schemas import CodesDocument, DecodeQuery, ImagesQuery, Named, OperationQuery
from service.codecs import code_arrays
from service.codecs.images import Fitted, ImageLimits
from service.contract.manifest import Role
from service.contract.runner import Arrays, Results
from service.errors import BadValue, TooLarge, VersionConflict, quoted, too_large
from service.models import request_parameters
from service.models.model import ServedModel
from service.models.pipeline import Number, Pipeline
from service.models.request_parameters import Label
from service.observability.call_record import current_call
from service.tiling import tiles
from service.tiling.rows import RowSource
from service.tiling.tiles import Sinks

T = TypeVar("T")


class Call(NamedTuple):
    """A pipeline of a model, with all that a request may set.

    ``first`` is the number of the first row, from which its noise follows. The operations named in
    ``default_noise`` use the default noise of every input that has one.
    """

    model: ServedModel
    pipeline: Pipeline
    values: Mapping[str, Number]
    seed: int
    default_noise: Collection[str]
    label: Label | Sequence[Label] | None
    first: int = 0

    @property
    def draws(self) -> bool:
        """Whether noise is drawn, so that the seed matters."""
        return bool(self.pipeline.noises) and self.pipeline.draws(self.default_noise)

    async def run(
        self, context: Context, rows: int, given: Arrays, *, returns_states: bool = True
    ) -> Results:
        """Run the pipeline on ``rows`` rows: the arrays given and those computed.

        Raises TooLarge for more steps than a setting allows; and, if it ``returns_states``, after the first
        batch, for more states of chains than a response may have.
        """
        most = context.settings.max_steps
        for axis in self.pipeline.steps:
            # The noise of a sampler has an axis of as many steps.
            if (steps := int(self.values[axis])) > most:
                raise too_large(f"{axis} is {steps}", steps, most, "max_steps")
        inputs = self._with_labels(given, rows)
        if not self.model.runs_whole(inputs):
            return await tiles.run(
                context.scheduler, self.model, self.pipeline, inputs, rows, self.values, self.default_noise
            )
        items = range(self.first, self.first + rows) if self.first else None

        def check(results: Results) -> None:
            states = results.arrays.get(Role.states)
            if states is not None and returns_states:
                _check_states(self.model, rows, states.shape[1], context.limits.images)

        results = await context.scheduler.run(
            self.model,
            self.pipeline,
            inputs,
            rows,
            self.values,
            self.seed,
            self.default_noise,
            items,
            check=check,
        )
        # The batcher checks the first of several batches; a single one is checked here.
        check(results)
        return results.with_given(inputs)

    async def run_rows(
        self, context: Context, source: RowSource, sinks: Sinks | None = None, nbytes: int = 0
    ) -> dict[Role, NDArray[Any]]:
        """Run the pipeline on one image or grid of codes that is read row by row.

        Raises as ``TiledPipeline.run``.
        """
        others = self._with_labels({}, 1)
        tiled = tiles.TiledPipeline(
            context.scheduler, self.model, self.pipeline, self.values, self.default_noise, others
        )
        return await tiled.run(source, sinks, nbytes)

    def _with_labels(self, given: Arrays, rows: int) -> Arrays:
        if self.label is None and self.pipeline.label is None:
            return given
        labels = request_parameters.labels(self.model.manifest, self.pipeline, self.label, rows)
        return given if labels is None else {**given, Role.label: labels}


def choose_model(context: Context, query: Named, body: Named | None = None) -> ServedModel:
    """The model that the query or the body names, or the default.

    Raises BadValue if the two disagree, VersionConflict if either has another version than is served, and
    what ``Registry.choose`` raises.
    """
    name = _agreed("model", query.model, None if body is None else body.model)
    version = _agreed("version", query.version, None if body is None else body.version)
    registry = context.registry
    wanted = registry.default if name is None else name
    model = None if wanted is None else registry.models.get(wanted)
    if model is None:
        model = registry.choose(name)
    current_call.get().model = model.manifest.name
    if version is not None and version != model.manifest.version:
        detail = (
            f"the request is for version {quoted(version)} of {model.manifest.name!r}, "
            f"and version {model.manifest.version!r} is served"
        )
        raise VersionConflict(detail, given=version, allowed=model.manifest.version)
    return model


def check_queue(context: Context, query: Named, verb: str, scope: Scope) -> None:
    """Refuse a request for a full queue before its body is read, unless the body may name the model (JSON).

    Raises Overloaded, and as ``choose_model``.
    """
    if not context.scheduler.is_full:
        return
    media = header(scope, b"content-type") or ""
    if query.model is not None or media.startswith(("image/", "application/x-npy")):
        model = choose_model(context, query)
        context.scheduler.check(model, model.pipeline(verb))


def _agreed(what: str, queried: T | None, named: T | None) -> T | None:
    if queried is not None and named is not None and queried != named:
        raise BadValue(
            f"the query has the {what} {quoted(queried)} and the body {quoted(named)}", given=[queried, named]
        )
    return named if queried is None else queried


def make_call(
    model: ServedModel,
    pipeline: Pipeline,
    parameters: Mapping[str, Any],
    *,
    seed: int | None = None,
    default_noise: Collection[str] = (),
    label: Label | Sequence[Label] | None = None,
    first: int = 0,
    others: Iterable[str] = (),
) -> Call:
    """A call with its parameters checked, and its seed drawn if none was given.

    Raises as ``request_parameters.parameters``.
    """
    values = pipeline.defaults
    if parameters:
        values = request_parameters.parameters(pipeline, parameters, others)
    call = Call(model, pipeline, values, seed or 0, default_noise, label, first)
    return call._replace(seed=request_parameters.draw_seed()) if seed is None and call.draws else call


def operation_call(model: ServedModel, verb: str, query: OperationQuery, *, draws: bool) -> Call:
    """The call for a query; unless it ``draws``, with default noise."""
    pipeline, given = model.pipeline(verb), query.model_extra or {}
    return make_call(
        model,
        pipeline,
        given,
        seed=query.seed,
        default_noise=() if draws else pipeline.names,
        label=query.label,
        first=query.first,
        others=type(query).model_fields if given else (),
    )


async def images_call(
    request: Request, context: Context, query: ImagesQuery, verb: str
) -> tuple[Call, ImagesBody]:
    """The call for a request with images, and the images."""
    check_queue(context, query, verb, request.scope)
    received = await request_bodies.read_images(request, context)
    model = choose_model(context, query, received.named)
    return operation_call(model, verb, query, draws=query.seed is not None or verb == "score"), received


async def fit_images(
    context: Context, query: ImagesQuery, model: ServedModel, received: ImagesBody
) -> Fitted:
    """The images of a request, fitted to a model. Raises as ``ImagesBody.fitted``."""
    limits = context.limits.images
    return await context.convert(lambda: received.fitted(model, limits, resize=query.resize), received.weight)


def unpadded_size(
    query: DecodeQuery, body: Named | None, codes: NDArray[Any], model: ServedModel
) -> tuple[int, int] | None:
    """Height and width of the images of some codes, as the query or the body has them; None if neither has.

    Raises BadValue if the two disagree, BadSize if the codes are not those of images padded from this size.
    """
    named = body.size if isinstance(body, CodesDocument) else None
    given = _agreed("size", query.height_and_width, named)
    if given is None:
        return None
    height, width = given
    code_arrays.check_unpadded((height, width), codes, model.manifest)
    return height, width


def _check_states(model: ServedModel, rows: int, states: int, limits: ImageLimits) -> None:
    """Raise TooLarge if the images of so many states of each row have too many pixels for a response."""
    image = model.manifest.image
    try:
        limits.check_total(rows * states, image.height, image.width)
    except TooLarge as error:
        detail = f"{rows} chains with {states} states each: {error}; ask for fewer samples or states"
        raise TooLarge(detail, **error.members) from error


def image_size(arrays: Mapping[Role, NDArray[Any]], model: ServedModel) -> tuple[int, int]:
    """Height and width in pixels of the images of some valid codes, or of the model if there are none."""
    image, codes = model.manifest.image, arrays.get(Role.codes)
    size = None if codes is None else code_arrays.image_size(codes.shape[1:], model.manifest)
    return size or (image.height, image.width)
