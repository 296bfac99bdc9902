"""``/diffusers/{name}/encode`` and ``/decode``: a remote VAE, for the client of diffusers as it is.

    remote_decode(endpoint="http://127.0.0.1:8000/diffusers/sd-vae/decode", tensor=latents)
    remote_encode(endpoint="http://127.0.0.1:8000/diffusers/sd-vae/encode", image=picture)

The operations, batches, limits and errors are those of ``/encode`` and ``/decode``.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from service.api import content_negotiation, request_bodies, responses
from service.api.dependencies import ON_LOOP, Context, Shared, decoding_work
from service.api.diffusers import latents, pictures, wire
from service.api.diffusers.queries import DecodeLatentsQuery, EncodeLatentsQuery
from service.api.diffusers.wire import TENSOR
from service.api.inference_call import Call, choose_model, make_call
from service.api.middleware.fast_path import CheckedRoute
from service.api.openapi.document import BINARY, RUN_REFUSALS, SEED_HEADER, file_response, problems
from service.api.schemas import Named
from service.codecs import code_arrays
from service.codecs.images import Pixels
from service.contract.manifest import Role
from service.errors import BadTensor, BadValue

router = APIRouter(
    prefix="/diffusers", tags=["diffusers"], route_class=CheckedRoute, default_response_class=Response
)

ModelName = Annotated[str, Path(description="A model whose codes are grids `[h, w, c]`.", max_length=64)]

_TENSOR_HEADERS = {
    "shape": {"description": "Of a tensor, as JSON.", "schema": {"type": "string"}},
    "dtype": {"description": "Of a tensor.", "schema": {"type": "string"}},
}


def _described(what: str, body: tuple[str, ...], made: tuple[str, ...], headers: Any) -> dict[str, Any]:
    """The description of a route: what its response is, and the media types of body and response."""
    found = file_response(what, *made)
    found[200]["headers"] = headers
    content = dict.fromkeys(body, BINARY)
    return {
        # These requests name no version, so none can conflict.
        "responses": found | problems(*(status for status in RUN_REFUSALS if status != 409)),
        "openapi_extra": {"requestBody": {"required": True, "content": content}},
    }


@router.post(
    "/{name}/decode",
    **_described(
        "A picture, or a tensor.",
        (TENSOR,),
        (TENSOR, *pictures.MEDIA_TYPES.values()),
        _TENSOR_HEADERS,
    ),
)
async def decode_latents(
    name: ModelName, request: Request, context: Shared, query: Annotated[DecodeLatentsQuery, Query()]
) -> Response:
    """Decode latents, for `remote_decode` of diffusers.

    The body is the bytes of a tensor. The response is a picture, or, with `output_type=pt` or where `Accept`
    asks for it, a tensor, whose shape and dtype are in headers. Images have 256 levels, in a tensor too.
    """
    offers = (TENSOR,) if query.output_type == "pt" else (pictures.MEDIA_TYPES[query.image_format], TENSOR)
    form = content_negotiation.choose(request.scope, offers)
    call = _call(context, name, "decode", None)
    if form != TENSOR and query.shape[:1] != [1]:
        raise BadValue(
            f"the latents have the shape {query.shape}, and output_type=pil gives one picture; "
            "use output_type=pt",
            given=query.shape[:1],
            allowed=[1],
        )
    body = await request_bodies.nonempty(request, context)

    def read() -> latents.Latents:
        spec = latents.check_latents(call.model)
        scale = latents.scale_of(
            call.model, query.scaling_factor, query.shift_factor, defaults=query.do_scaling
        )
        given = wire.read(body, query.dtype, query.shape, "latents")
        grids = scale.unscaled(latents.to_grids(given, query.size, spec))
        return code_arrays.from_array(
            grids, call.model.manifest, context.limits.images, "latents [n, h, w, c]"
        )

    grids = await context.convert(read, len(body))
    results = await call.run(context, len(grids), {Role.codes: grids})
    decoded = results.arrays[Role.images]
    return await context.convert(lambda: _of_images(call, decoded, query, form), decoded.size)


@router.post(
    "/{name}/encode",
    **_described(
        "Latents `[n, c, h, w]`.",
        (*content_negotiation.PICTURES, TENSOR),
        (TENSOR,),
        _TENSOR_HEADERS | SEED_HEADER,
    ),
)
async def encode_latents(
    name: ModelName, request: Request, context: Shared, query: Annotated[EncodeLatentsQuery, Query()]
) -> Response:
    """Encode images, for `remote_encode` of diffusers.

    The body is a picture, or the bytes of a tensor with values in [-1, 1], which are rounded to 256 levels.
    The latents are the mean of the posterior; with a seed, a draw from it. A picture is resized to a size
    that the model takes, a tensor must have one.
    """
    content_negotiation.choose(request.scope, (TENSOR,))
    call = _call(context, name, "encode", query.seed)
    if (query.shape is None) != (query.dtype is None):
        raise BadTensor("a tensor has both shape and dtype in the query, and a picture has neither")
    body = await request_bodies.nonempty(request, context)

    def read() -> Pixels:
        spec, limits = call.model.manifest.image, context.limits.images
        if query.shape is None or query.dtype is None:
            return pictures.from_file(body, spec, limits)
        return pictures.from_tensor(wire.read(body, query.dtype, query.shape, "images"), spec, limits)

    # A small file may take long to decode, so a picture is always decoded in a thread.
    weight = len(body) if query.shape else max(ON_LOOP + 1, decoding_work([body]))
    images = await context.convert(read, weight)
    results = await call.run(context, len(images), {Role.images: images})
    codes, dtype = results.arrays[Role.codes], query.dtype or "float32"
    scale = latents.scale_of(call.model, query.scaling_factor, query.shift_factor)
    headers = {"X-Tessera-Seed": str(call.seed)} if call.draws else {}

    def response() -> Response:
        made = wire.stored(latents.to_latents(scale.scaled(codes)), dtype)
        return wire.tensor_response(call.model, made, dtype, headers)

    return await context.convert(response, codes.size)


def _call(context: Context, name: str, verb: str, seed: int | None) -> Call:
    """The call of a model with latents; without a seed with default noise.

    Raises UnknownOperation for another model, Overloaded for a full queue, and as ``choose_model``.
    """
    model = choose_model(context, Named(model=name))
    latents.check_latents(model)
    pipeline = model.pipeline(verb)
    if context.scheduler.is_full:
        context.scheduler.check(model, pipeline)
    return make_call(model, pipeline, {}, seed=seed, default_noise=pipeline.names if seed is None else ())


def _of_images(call: Call, decoded: Pixels, query: DecodeLatentsQuery, form: str) -> Response:
    """The response with decoded images, as a picture or a tensor."""
    if form != TENSOR:
        return responses.response(pictures.to_file(decoded[0], query.image_format), call.model, form)
    if query.output_type == "pt" and query.partial_postprocess:
        return wire.tensor_response(call.model, pictures.to_colours(decoded), "uint8")
    # A client that makes a picture of the tensor expects values in [0, 1].
    made = pictures.to_tensor(decoded, query.dtype, denormalised=query.output_type == "pil")
    return wire.tensor_response(call.model, made, query.dtype)
