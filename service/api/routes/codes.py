"""``/encode``, ``/decode`` and ``/reconstruct``: images to codes, codes to images, and both."""

from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from service.api import content_negotiation, request_bodies, responses
from service.api.dependencies import Context, Shared
from service.api.inference_call import Call, check_room, choose_model, make_call
from service.api.openapi import DECODE, ENCODE, RECONSTRUCT
from service.api.schemas import ImagesQuery, OperationQuery
from service.codecs.images import Pixels
from service.contract.manifest import Role
from service.models.model import ServedModel

router = APIRouter(tags=["codes"], default_response_class=Response)


@router.post("/encode", **ENCODE)
async def encode(request: Request, context: Shared, query: Annotated[ImagesQuery, Query()]) -> Response:
    """Turn images into codes.

    The body is a PNG, JPEG or WebP file, several of them as a multipart form, uint8 `[N, H, W, C]` as npy,
    or JSON with base64. Images of another size are made to fit by the model's rule; with `resize=false` they
    keep their size, where the model can.
    """
    form = content_negotiation.choose(
        content_negotiation.header(request.scope, b"accept"), responses.CODES_FORMS
    )
    call, pixels = await images_call(request, context, query, "encode")
    results = await call.run(context, len(pixels), {Role.images: pixels})
    found = results.arrays[Role.codes]
    headers = {"X-Tessera-Seed": str(call.seed)} if call.draws else {}
    return await context.convert(lambda: responses.of_codes(call.model, found, form, headers), found.size)


@router.post("/decode", **DECODE)
async def decode(request: Request, context: Shared, query: Annotated[OperationQuery, Query()]) -> Response:
    """Turn codes into images.

    The body is what `/encode` answers, JSON or npy. Grids of another size than the model's own are images of
    another size, where the model can. As PNG, several images come as a grid.
    """
    form = content_negotiation.choose(
        content_negotiation.header(request.scope, b"accept"), responses.IMAGES_FORMS
    )
    check_room(context, query, "decode", request.scope)
    sent = await request_bodies.read_codes(request, context)
    model = choose_model(context, query, sent.named)
    call = _call(model, "decode", query, draws=query.seed is not None)
    grids = await request_bodies.convert_json(
        sent.size, lambda: sent.read(model, context.settings), sent.weight, context
    )
    results = await call.run(context, len(grids), {Role.codes: grids})
    made = results.arrays[Role.images]
    return await context.convert(lambda: responses.of_images(model, made, form), made.size)


@router.post("/reconstruct", **RECONSTRUCT)
async def reconstruct(request: Request, context: Shared, query: Annotated[ImagesQuery, Query()]) -> Response:
    """Encode images and decode their codes: what the model keeps of them.

    The body is as for `/encode`. The JSON has the mean squared error and the PSNR of each image.
    """
    form = content_negotiation.choose(
        content_negotiation.header(request.scope, b"accept"), responses.IMAGES_FORMS
    )
    call, pixels = await images_call(request, context, query, "reconstruct")
    results = await call.run(context, len(pixels), {Role.images: pixels})
    made = results.arrays[Role.images]
    return await context.convert(
        lambda: responses.of_images(call.model, made, form, more=_distances(pixels, made)), 2 * made.size
    )


async def images_call(
    request: Request, context: Context, query: ImagesQuery, verb: str
) -> tuple[Call, Pixels]:
    """The images of a request, and the call that runs a pipeline on them."""
    check_room(context, query, verb, request.scope)
    sent = await request_bodies.read_images(request, context)
    model = choose_model(context, query, sent.named)
    call = _call(model, verb, query, draws=query.seed is not None or verb == "score")
    fitted = await context.convert(
        lambda: sent.fitted(model, context.settings, resize=query.resize), sent.weight
    )
    return call, fitted.pixels


def _call(model: ServedModel, verb: str, query: OperationQuery, *, draws: bool) -> Call:
    """What a query asks for; unless it ``draws``, with default noise."""
    pipeline, given = model.pipeline(verb), query.parameters()
    default_noise = () if draws else pipeline.names
    others = type(query).model_fields if given else ()
    return make_call(
        model,
        pipeline,
        given,
        seed=query.seed,
        default_noise=default_noise,
        label=query.label,
        others=others,
    )


def _distances(originals: Pixels, reconstructions: Pixels) -> dict[str, list[float] | list[float | None]]:
    """MSE of pixels in [0, 1] and PSNR in dB of each image."""
    difference = (originals.astype(np.float32) - reconstructions) / 255
    mse = np.square(difference).mean(axis=(1, 2, 3), dtype=np.float64)
    return {
        "mse": mse.tolist(),
        "psnr": [float(-10 * np.log10(value)) if value > 0 else None for value in mse],
    }
