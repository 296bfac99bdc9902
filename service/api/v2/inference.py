"""``/v2``: the Open Inference Protocol, for clients of KServe and Triton.

``service.models.signature`` says what a model is there. An inference goes the way of ``/encode``, ``/decode``
and ``/sample``: the same pipelines, limits and errors, and the same batches as theirs.
"""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Path
from starlette.requests import Request
from starlette.responses import Response

from service import __version__
from service.api import request_bodies
from service.api.dependencies import Shared
from service.api.inference_call import Call, make_call
from service.api.middleware.body_limits import HOLD
from service.api.openapi import INDEX_BODY, INFER, problems
from service.api.routes import health, sample
from service.api.v2 import inputs, wire
from service.api.v2.inputs import Inputs
from service.api.v2.metadata import describe
from service.api.v2.protocol import (
    IndexDocument,
    IndexEntry,
    ModelAnswer,
    ModelReadyAnswer,
    ServerAnswer,
    ServerLiveAnswer,
    ServerReadyAnswer,
)
from service.api.v2.wire import ALL_BINARY, SentInference
from service.contract.manifest import Role
from service.contract.runner import Results
from service.errors import BadValue, quoted, unknown
from service.models.model import ServedModel
from service.models.request_parameters import LARGEST_SEED
from service.models.signature import ENCODE, RECONSTRUCT, Signature, find, names, signature
from service.settings import Settings

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


async def _found(name: ModelName, request: Request, context: Shared) -> tuple[ServedModel, str]:
    return find(context.registry, name, request.path_params.get("version"))


async def _of_version(version: Version) -> None:
    """Only to be described: a model is looked up once, with its version."""


Found = Annotated[tuple[ServedModel, str], Depends(_found)]


def _of_model(method: str, path: str, **told: Any) -> Callable[[Endpoint], Endpoint]:
    """Two routes to an endpoint: to a model, and to a version of it."""

    def add(endpoint: Endpoint) -> Endpoint:
        for prefix, dependencies in (("", []), ("/versions/{version}", [Depends(_of_version)])):
            whole = f"/models/{{name}}{prefix}{path}"
            router.add_api_route(whole, endpoint, methods=[method], dependencies=dependencies, **told)
        return endpoint

    return add


@router.get("")
async def show_server() -> ServerAnswer:
    """Name the server, and the extensions of the protocol that it has."""
    return ServerAnswer(name="tessera", version=__version__, extensions=_EXTENSIONS)


@router.get("/health/live", responses=problems(503))
async def live(context: Shared) -> ServerLiveAnswer:
    """Say that the service is well, as `/livez` does."""
    await health.livez(context)
    return ServerLiveAnswer(live=True)


@router.get("/health/ready", responses=problems(503))
async def ready(context: Shared) -> ServerReadyAnswer:
    """Say that a model is loaded, as `/readyz` does."""
    await health.readyz(context)
    return ServerReadyAnswer(ready=True)


@router.post("/repository/index", responses=problems(400, 408, 413, 422), openapi_extra=INDEX_BODY)
async def index(request: Request, context: Shared) -> list[IndexEntry]:
    """List every name that a model has here, and the folders that are refused."""
    body = await request_bodies.whole(request)
    asked = IndexDocument()
    if body:
        asked = await request_bodies.read_off_loop(
            body, lambda: IndexDocument.read(request_bodies.from_json(body, context.settings)), context
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
    return served if asked.ready else served + refused


@_of_model("GET", "", responses=_REFUSALS, response_model_exclude_none=True)
async def show_model(name: ModelName, found: Found) -> ModelAnswer:
    """Show what a model takes and gives.

    An axis of -1 has any length, and the first are the rows. Images may also come as `BYTES` of shape `[n]`,
    a PNG, JPEG or WebP file each, and labels by their names. Noise is no input: the parameter `seed` makes
    it.
    """
    return describe(*found, name)


@_of_model("GET", "/ready", responses=_REFUSALS)
async def model_ready(name: ModelName, found: Found) -> ModelReadyAnswer:  # noqa: ARG001 - or it is 404
    """Say that a model is served, or 404."""
    return ModelReadyAnswer(name=name, ready=True)


@_of_model("POST", "/infer", response_class=Response, **INFER)
async def infer(name: ModelName, found: Found, request: Request, context: Shared) -> Response:
    """Run a model on tensors.

    These come as JSON, or as bytes behind the JSON object (Triton's binary tensor data extension); so do the
    outputs, all or those that are asked for. The request's `parameters` are the operation's own, and `seed`,
    which makes the noise: without one, encoders and decoders draw nothing, and samplers draw one, which is in
    the response. What samples takes `n` rows, or as many as it has labels; one row of codes then stands for
    all. What goes from `codes` to a `target` takes the `fraction` of each row, or `n`. The body may be
    compressed with gzip or deflate.
    """
    model, verb = found
    face = signature(model, verb)
    settings, headers, body = context.settings, request.headers, await request_bodies.whole(request)
    sent = await request_bodies.convert_json(
        wire.json_size(body, headers),
        lambda: wire.read(body, headers, settings),
        wire.weight(body, headers),
        context,
    )
    request.scope[HOLD](sent.size)
    call, given = await context.convert(lambda: _prepared(sent, model, verb, face, settings), sent.weight)
    results = await call.run(context, given.rows, given.arrays)
    made = sum(array.size for array in results.arrays.values())
    head = {"model_name": name, "model_version": model.manifest.version}
    return await context.convert(lambda: _answer(head, sent, call, results, face, settings), made)


def _prepared(
    sent: SentInference, model: ServedModel, verb: str, face: Signature, settings: Settings
) -> tuple[Call, Inputs]:
    allowed = [slot.name for slot in face.outputs]
    for name in sent.outputs or ():
        if name not in allowed:
            raise unknown("output ", name, allowed, hint=f"there are {', '.join(allowed)}")
    parameters = dict(sent.parameters)
    seed = _whole(parameters, _SEED, 0, LARGEST_SEED)
    n = _whole(parameters, _COUNT, 1, LARGEST_SEED) if face.repeats else None
    given = inputs.read(sent.inputs, face, model, n, settings)
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
    return call, given


def _answer(
    head: dict[str, Any],
    sent: SentInference,
    call: Call,
    results: Results,
    face: Signature,
    settings: Settings,
) -> Response:
    if sent.id is not None:
        head["id"] = sent.id
    if told := {_SEED: call.seed, **call.values} if call.draws else dict(call.values):
        head["parameters"] = told
    roles = {slot.name: slot.role for slot in face.outputs}
    outputs = []
    for name, binary in (sent.outputs or dict.fromkeys(roles, sent.binary)).items():
        role = roles[name]
        array = results.figures[name] if role.spec.by_name else results.arrays[role]
        if role is Role.states:
            sample.check_states(call.model, array, settings)
        outputs.append((name, array, binary))
    return wire.answer(head, outputs, settings)


def _whole(parameters: dict[str, Any], name: str, least: int, most: int) -> int | None:
    """A whole number among the parameters, which is taken out. Raises BadValue."""
    value = parameters.pop(name, None)
    if value is not None and (type(value) is not int or not least <= value <= most):
        detail = f"{name} is a whole number in {least} to {most}, not {quoted(value)}"
        raise BadValue(detail, given=value, allowed=[least, most])
    return value
