"""``/encode``, ``/decode`` and ``/reconstruct``: images to codes, codes to images, and both in order."""

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from service.api import content_negotiation, request_bodies, responses
from service.api.content_negotiation import BYTES, JSON, NPY, PNG
from service.api.dependencies import Shared
from service.api.inference_call import (
    check_queue,
    choose_model,
    fit_images,
    images_call,
    operation_call,
    unpadded_size,
)
from service.api.middleware.fast_path import FastRoute
from service.api.openapi.document import (
    BINARY,
    IMAGES_BODY,
    SEED_HEADER,
    SIZE_HEADER,
    body,
    json_content,
    runs_model,
)
from service.api.openapi.examples import Examples
from service.api.routes import image_rows
from service.api.schemas import CodesDocument, DecodeQuery, ImagesQuery, ImagesResponse, ModelResponse
from service.codecs.images import Pixels, cropped, squared_error
from service.contract.manifest import Role
from service.models import request_parameters


class CodesResponse(ModelResponse):
    """The codes of some images."""

    shape: list[int]
    """`[n, h, w]` for grids, `[n, h, w, l]` for those of `l` levels, `[n, t]` for sequences and
    for the grids of several scales, `[n, d]` for vectors."""
    dtype: str
    size: list[int] | None = None
    """Height and width in pixels of the images before they were padded; missing if they were not."""
    codes: list[Any]
    """Nested lists of this shape."""


class ReconstructionResponse(ImagesResponse):
    """Reconstructions, with their distance from what was encoded (the resized image, if it was resized)."""

    mse: list[float]
    """Of pixels in [0, 1], for each image."""
    psnr: list[float | None]
    """In dB, for each image; null if there is no difference."""


_CODES_BODY = body(json_content(CodesDocument, Examples.codes) | {NPY: BINARY})

router = APIRouter(tags=["codes"], route_class=FastRoute, default_response_class=Response)


@router.post(
    "/encode",
    **runs_model(CodesResponse, NPY, BYTES, body=IMAGES_BODY, headers=SEED_HEADER | SIZE_HEADER),
)
async def encode(request: Request, context: Shared, query: Annotated[ImagesQuery, Query()]) -> Response:
    """Turn images into codes.

    The body is a PNG, JPEG or WebP file, several of them as a multipart form, uint8 `[N, H, W, C]` as npy,
    or JSON with base64. Images of another size are made to fit by the model's rule; with `resize=false` they
    keep their size, where the model can: they are padded to the next size that it takes, and the response has
    the `size` before that, which `/decode` restores. Of codes with levels, `levels=2` gives the first two.
    """
    form = content_negotiation.choose(request.scope, responses.CODES_FORMS)
    call, received = await images_call(request, context, query, "encode")
    if not query.resize and (large := await image_rows.find_large(context, received)):
        codes, unpadded = await image_rows.encode(call, context, large)
    else:
        images = await fit_images(context, query, call.model, received)
        results = await call.run(context, len(images.pixels), {Role.images: images.pixels})
        codes, unpadded = results.arrays[Role.codes], images.unpadded
    headers = {"X-Tessera-Seed": str(call.seed)} if call.draws else {}
    return await context.convert(
        lambda: responses.of_codes(call.model, codes, form, headers, unpadded), codes.size
    )


@router.post("/decode", **runs_model(ImagesResponse, PNG, NPY, BYTES, body=_CODES_BODY, headers={}))
async def decode(request: Request, context: Shared, query: Annotated[DecodeQuery, Query()]) -> Response:
    """Turn codes into images.

    The body is the response of `/encode`, JSON or npy. Grids of another size than the model's own are images
    of another size, where the model can. With the `size` of images that were padded, in the JSON or the
    query, the padding is cut off. As PNG, several images are a grid. The first levels of codes with levels
    are decoded to a coarser image.
    """
    form = content_negotiation.choose(request.scope, responses.IMAGES_FORMS)
    check_queue(context, query, "decode", request.scope)
    received = await request_bodies.read_codes(request, context)
    model = choose_model(context, query, received.named)
    call = operation_call(model, "decode", query, draws=query.seed is not None)
    grids = await request_bodies.convert_json(
        received.size, lambda: received.read(model, context.limits.images), received.weight, context
    )
    request_parameters.check_levels(query.model_extra or {}, call.values, grids, model.manifest)
    size = unpadded_size(query, received.named, grids, model)
    if image_rows.is_large(context, call.model, grids):
        return await image_rows.decode(call, context, grids, size, form)
    results = await call.run(context, len(grids), {Role.codes: grids})
    decoded = results.arrays[Role.images]
    return await context.convert(
        lambda: responses.of_images(model, cropped(decoded, size), form), decoded.size
    )


@router.post(
    "/reconstruct", **runs_model(ReconstructionResponse, PNG, NPY, BYTES, body=IMAGES_BODY, headers={})
)
async def reconstruct(request: Request, context: Shared, query: Annotated[ImagesQuery, Query()]) -> Response:
    """Encode images and decode their codes: what the model preserves of them.

    The body is as for `/encode`. The JSON has the mean squared error and the PSNR of each image. Images that
    were padded are returned, and compared, without the padding.
    """
    form = content_negotiation.choose(request.scope, responses.IMAGES_FORMS)
    call, received = await images_call(request, context, query, "reconstruct")
    if not query.resize and (large := await image_rows.find_large(context, received)):
        return await image_rows.reconstruct(call, context, large, form)
    images = await fit_images(context, query, call.model, received)
    results = await call.run(context, len(images.pixels), {Role.images: images.pixels})
    decoded = results.arrays[Role.images]

    def response() -> Response:
        original, reconstruction = images.crop(images.pixels), images.crop(decoded)
        more = _distances(original, reconstruction) if form == JSON else None
        return responses.of_images(call.model, reconstruction, form, more=more)

    return await context.convert(response, 2 * decoded.size)


def _distances(originals: Pixels, reconstructions: Pixels) -> dict[str, list[float] | list[float | None]]:
    """MSE of pixels in [0, 1] and PSNR in dB, for each of the images uint8 ``(N, H, W, C)``."""
    squares = np.array([squared_error(*each) for each in zip(originals, reconstructions, strict=True)])
    return responses.distances((squares / (255**2 * originals[0].size)).tolist())
