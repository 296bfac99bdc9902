"""``/v2``: the Open Inference Protocol, for clients of KServe and Triton.

``service.models.signature`` maps models to the protocol. An inference has the operations, limits and errors
of ``/encode``, ``/decode`` and ``/sample``, and shares their batches.
"""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, TypeVar

from fastapi import APIRouter, Depends, Path
from starlette.requests import Request
from starlette.responses import Response

from service.api import request_bodies
from service.api.content_negotiation import BYTES
from service.api.dependencies import RequestLimits, Shared
from service.api.inference_call import Call, make_call
from service.api.openapi.document import BINARY, RUN_REFUSALS, body, json_content, json_response, problems
from service.api.openapi.examples import Examples
from service.api.v2 import inputs, wire
from service.api.v2.inputs import Inputs
from service.api.v2.metadata import describe
from service.api.v2.protocol import (
    IndexDocument,
    IndexEntry,
    InferenceDocument,
    InferenceResponse,
    ModelMetadata,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerReady,
)
from service.api.v2.wire import ALL_BINARY, LENGTH, InferenceBody
from service.codecs.images import ImageLimits, cropped
from service.contract import __version__
from service.contract.manifest import Role
from service.contract.runner import Results
from service.errors import BadValue, UnknownName, quoted, unknown
from service.models import request_parameters
from service.models.model import ServedModel
from service.models.request_parameters import LARGEST_SEED
from service.models.signature import ENCODE, RECONSTRUCT, Signature, find, names, signature
from service.observability.call_record import current_call

router = APIRouter(prefix="/v2", tags=["inference"])

# Names of a model, of an operation and of a method, with two colons.
_LONGEST = 3 * 64 + 2
ModelName = Annotated[
    str,
    Path(
        description="`MODEL` to encode, else `MODEL:OPERATION`: `vqvae-mnist:decode`, "
        "`vqvae-mnist:sample:autoregressive`. The index has them all.",
        max_length=_LONGEST,
    ),
]
Version = Annotated[str, Path(description="The version that is served; there is one.", max_length=64)]

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

_REFUSALS = problems(404, 422, 503)
_EXTENSIONS = ["binary_tensor_data", "parameters"]
_SEED, _COUNT = "seed", "n"
# Without a seed these verbs use the default noise of every input that has one.
_DEFAULT_NOISE = (ENCODE, "decode", RECONSTRUCT)


# There is one form of response, and the version is a part of the path: 406 and 409 do not occur.
_LENGTH = {
    "description": "How many bytes are JSON, if tensors follow.",
    "schema": {"type": "integer", "minimum": 0},
}
_INFER: dict[str, Any] = {
    "responses": json_response(InferenceResponse, BYTES, headers={LENGTH: _LENGTH})
    | problems(*(status for status in RUN_REFUSALS if status not in (406, 409))),
    "openapi_extra": body(
        json_content(InferenceDocument, Examples.tensors) | {BYTES: BINARY},
        {"name": LENGTH, "in": "header", **_LENGTH},
    ),
}
_INDEX_BODY = {
    "requestBody": {
        "required": False,
        "content": json_content(IndexDocument, lambda *_: {"the models that are ready": {"ready": True}}),
    }
}


class _Found(NamedTuple):
    """The name in the path, and the model and the verb that it stands for."""

    name: str
    model: ServedModel
    verb: str


async def _found(name: ModelName, request: Request, context: Shared) -> _Found:
    model, verb = find(context.registry, name, request.path_params.get("version"))
    current_call.get().model = model.manifest.name
    return _Found(name, model, verb)


async def _of_version(version: Version) -> None:
    """The description alone: ``_found`` looks the model and its version up."""


Found = Annotated[_Found, Depends(_found)]


def _of_model(method: str, path: str, **described: Any) -> Callable[[Endpoint], Endpoint]:
    """Two routes to an endpoint: of a model, and of a version of it."""

    def add(endpoint: Endpoint) -> Endpoint:
        for prefix, dependencies in (("", []), ("/versions/{version}", [Depends(_of_version)])):
            whole = f"/models/{{name}}{prefix}{path}"
            router.add_api_route(whole, endpoint, methods=[method], dependencies=dependencies, **described)
        return endpoint

    return add


@router.get("")
async def show_server() -> ServerMetadata:
    """Name the server, and the extensions of the protocol that it has."""
    return ServerMetadata(name="tessera", version=__version__, extensions=_EXTENSIONS)


@router.get("/health/live", responses=problems(503))
async def live(context: Shared) -> ServerLive:
    """Respond 200 while the service is well, as `/livez`."""
    await context.check_live()
    return ServerLive(live=True)


@router.get("/health/ready", responses=problems(503))
async def ready(context: Shared) -> ServerReady:
    """Respond 200 while a model is loaded, as `/readyz`."""
    await context.check_ready()
    return ServerReady(ready=True)


@router.post("/repository/index", responses=problems(400, 408, 413, 422), openapi_extra=_INDEX_BODY)
async def index(request: Request, context: Shared) -> list[IndexEntry]:
    """List every name that a model has here, and the refused bundles."""
    content = await request_bodies.whole(request, context)
    query = IndexDocument()
    if content:
        query = await request_bodies.read_off_loop(
            content, lambda: IndexDocument.read(context.limits.json.parse(content)), context
        )
    served = [
        IndexEntry(name=name, version=model.manifest.version, state="READY", reason="")
        for model in context.registry.models.values()
        for name in names(model)
    ]
    refused = [
        IndexEntry(name=item.name, version="", state="UNAVAILABLE", reason=item.reason)
        for item in context.registry.refused
    ]
    return served if query.ready else served + refused


@_of_model("GET", "", responses=_REFUSALS, response_model_exclude_none=True)
async def show_model(found: Found) -> ModelMetadata:
    """Show the inputs, outputs and parameters of a model.

    An axis of -1 has any length, and the first is that of rows. Images are padded to a size that the model
    takes, and reconstructions are cut to theirs. Images may also be `BYTES` of shape `[n]`, a PNG, JPEG or
    WebP file each, and labels by their names. Noise is no input: the parameter `seed` makes it.
    """
    return describe(found.model, found.verb, found.name)


@_of_model("GET", "/ready", responses=_REFUSALS)
async def model_ready(found: Found) -> ModelReady:
    """Respond 200 if a model is served, 503 if its bundle was refused, or 404."""
    return ModelReady(name=found.name, ready=True)


@_of_model("POST", "/infer", response_class=Response, **_INFER)
async def infer(found: Found, request: Request, context: Shared) -> Response:
    """Run a model on tensors.

    Inputs are JSON, or bytes after the JSON object (Triton's binary tensor data extension); so are the
    outputs, all or those in `outputs`. The `parameters` are those of the operation, and `seed`, that of the
    noise: without one, encoders and decoders draw no noise, and samplers draw a seed, which is in the
    response. A sampler has `n` rows, or as many as there are labels; one row of codes then applies to all. An
    interpolation from `codes` to a `target` has the `fraction` of each row, or `n`. The body may be
    compressed with gzip or deflate.
    """
    if request.query_params:
        first = next(iter(request.query_params))
        detail = 'nothing is read from it here; the seed and parameters go under "parameters" in the body'
        raise UnknownName(f"the query has {quoted(first)}: {detail}", given=first)
    name, model, verb = found
    face = signature(model, verb)
    images = face.input(Role.images)
    files = None if images is None else images.name
    limits, headers, content = context.limits, request.headers, await request_bodies.whole(request, context)
    received = await request_bodies.convert_json(
        wire.json_size(content, headers),
        lambda: wire.read(content, headers, limits, files),
        wire.weight(content, headers),
        context,
    )
    call, given = await context.convert(
        lambda: _prepared(received, model, verb, face, limits.images), received.weight
    )
    roles = {slot.name: slot.role for slot in face.outputs}
    returned = [roles[name] for name in received.outputs or roles]
    results = await call.run(context, given.rows, given.arrays, returns_states=Role.states in returned)
    size = sum(array.size for array in results.arrays.values())
    members = {"model_name": name, "model_version": model.manifest.version}
    return await context.convert(lambda: _response(members, received, call, results, face, limits), size)


def _prepared(
    received: InferenceBody, model: ServedModel, verb: str, face: Signature, limits: ImageLimits
) -> tuple[Call, Inputs]:
    allowed = [slot.name for slot in face.outputs]
    for name in received.outputs or ():
        if name not in allowed:
            raise unknown("output ", name, allowed, hint=f"there are {', '.join(allowed)}")
    parameters = dict(received.parameters)
    for slot in face.inputs:
        if slot.name in parameters and slot.name not in face.pipeline.parameters:
            raise UnknownName(f'{slot.name!r} is no parameter but one of the "inputs"', given=slot.name)
    seed = _whole(parameters, _SEED, 0, LARGEST_SEED)
    n = _whole(parameters, _COUNT, 1, LARGEST_SEED) if face.repeats else None
    given = inputs.read(received.inputs, face, model, n, limits)
    default_noise = face.pipeline.names if seed is None and verb in _DEFAULT_NOISE else ()
    others = [_SEED, *([_COUNT] if face.repeats else []), ALL_BINARY]
    call = make_call(
        model,
        face.pipeline,
        parameters,
        seed=seed,
        default_noise=default_noise,
        label=given.label,
        others=others,
    )
    if (codes := given.arrays.get(Role.codes)) is not None:
        request_parameters.check_levels(parameters, call.values, codes, model.manifest)
    return call, given


def _response(
    members: dict[str, Any],
    received: InferenceBody,
    call: Call,
    results: Results,
    face: Signature,
    limits: RequestLimits,
) -> Response:
    if received.id is not None:
        members["id"] = received.id
    if parameters := {_SEED: call.seed, **call.values} if call.draws else dict(call.values):
        members["parameters"] = parameters
    roles = {slot.name: slot.role for slot in face.outputs}
    outputs = []
    for name, binary in (received.outputs or dict.fromkeys(roles, received.binary)).items():
        role = roles[name]
        array = results.figures[name] if role.spec.by_name else results.arrays[role]
        if role is Role.images:
            array = cropped(array, _given_size(received, face))
        outputs.append((name, array, binary))
    return wire.response(members, outputs, limits.json)


def _given_size(received: InferenceBody, face: Signature) -> tuple[int, int] | None:
    """The height and width of the images that were given as pixels, if there are any."""
    slot = face.input(Role.images)
    tensor = None if slot is None else received.inputs.get(slot.name)
    return None if tensor is None or tensor.array.ndim != 4 else tensor.array.shape[1:3]


def _whole(parameters: dict[str, Any], name: str, least: int, most: int) -> int | None:
    """Remove an integer from the parameters. Raises BadValue."""
    value = parameters.pop(name, None)
    if value is not None and (type(value) is not int or not least <= value <= most):
        detail = f"{name} is {quoted(value)}; it must be an integer from {least} to {most}"
        raise BadValue(detail, given=value, allowed=[least, most])
    return value
