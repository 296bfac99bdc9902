"""``/sample``: new images, from noise, by any sampling method of a model.

Methods that take a mask also complete given codes or images (``service.api.routes.sample_inputs``), and
methods that take a target interpolate. The response may have the states of a Markov chain too.
"""

import math
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from service.api import content_negotiation, request_bodies, responses
from service.api.content_negotiation import BYTES, NPY, PNG
from service.api.dependencies import Context, Shared
from service.api.inference_call import Call, choose_model, image_size, make_call
from service.api.middleware.fast_path import FastRoute
from service.api.openapi.document import IMAGES_CONTENT, SEED_HEADER, json_content, runs_model
from service.api.openapi.document import body as described_body
from service.api.openapi.examples import Examples
from service.api.request_bodies import SampleBody
from service.api.routes import sample_inputs
from service.api.schemas import ImagesResponse, SampleDocument, SampleQuery
from service.codecs import masks
from service.contract.manifest import Role
from service.contract.runner import Results
from service.errors import BadValue
from service.models.model import ServedModel
from service.models.pipeline import SAMPLE, Pipeline
from service.models.request_parameters import POINTS, between


class SampleResponse(ImagesResponse):
    """Samples, and all that is needed to get them again."""

    method: str
    seed: int
    parameters: dict[str, float]
    labels: list[int] | None
    """Index of the class of each; null for no classes."""
    codes: list[Any] | None
    """Nested lists; null if the method gives images alone."""
    mask: list[Any] | None
    """Nested lists of the shape of `codes`: 1 where one was sampled, 0 where it was kept; null if nothing
    was given to complete."""
    states: list[Any] | None
    """The states of each chain, `[n, states, ...]`; null without `every`."""
    state_images: list[list[str]] | None
    """Their images, as base64 PNG."""
    figures: dict[str, list[float | None]] | None
    """Figures of each sample by name, such as `acceptance_rate`; null if there are none."""


_SAMPLE_BODY = described_body(json_content(SampleDocument, Examples.samples) | IMAGES_CONTENT, required=False)

router = APIRouter(tags=["samples"], route_class=FastRoute, default_response_class=Response)


@router.post("/sample", **runs_model(SampleResponse, PNG, NPY, BYTES, body=_SAMPLE_BODY, headers=SEED_HEADER))
async def sample(request: Request, context: Shared, query: Annotated[SampleQuery, Query()]) -> Response:
    """Draw new images, complete some, or interpolate between two.

    The request is JSON, or plain query parameters: `/sample?method=langevin&steps=200&n=16&seed=1`. The same
    seed gives the same images, each whatever `n` is; without one a seed is drawn, and is in the JSON and the
    header `X-Tessera-Seed` of the response. As PNG, several images are a grid.

    Methods that take a mask also complete: given `codes` and a `mask`, they sample the codes where it is true
    and keep the others; given an image and a `box`, they do the same with the image's codes, and sample those
    that the box touches. The image is in the JSON, or is the body as for `/encode`, with the box in the
    query: `/sample?box=0,14,28,28&n=8`. One image or row of codes has `n` completions, several have one each.

    Methods that take a target interpolate: given two rows of `codes`, or two images, they respond with `n`
    evenly spaced points, including both ends: `/sample?method=interpolate&n=9`.

    With `every=20` the response has every 20th state of each chain instead of the last alone: as PNG a row of
    images for each sample, as npy `[n, states, h, w, c]`, in JSON beside the last.
    """
    form = content_negotiation.choose(request.scope, responses.IMAGES_FORMS)
    body = _merged(await request_bodies.read_sample(request, context), query)
    model = choose_model(context, body.document)
    operation = model.sampler(body.document.method)
    method = operation.removeprefix(SAMPLE)
    interpolates = method in model.methods_that_take(Role.target)
    run = _interpolated if interpolates else _drawn
    call, results = await run(context, model, operation, body, query)
    arrays = results.arrays
    pixels, states, mask = arrays[Role.images], arrays.get(Role.states), arrays.get(Role.mask)
    passed = None
    if states is not None and states.shape[1]:
        passed = await _decoded(context, call, states, arrays.get(Role.label))
    more = {
        "method": method,
        "seed": call.seed,
        "parameters": dict(call.values),
        "labels": arrays.get(Role.label),
        "codes": arrays.get(Role.codes),
        "mask": None if mask is None else mask.astype(np.uint8),
        "states": None if passed is None else states,
        "figures": results.figures or None,
    }
    headers = {"X-Tessera-Seed": str(call.seed)}
    weight = pixels.size + sum(array.size for array in arrays.values())
    if passed is not None:
        return await context.convert(
            lambda: responses.of_chains(model, pixels, passed, form, more, headers), weight + passed.size
        )
    columns = len(pixels) if interpolates else None
    more["state_images"] = None
    return await context.convert(
        lambda: responses.of_images(model, pixels, form, more, headers, columns), weight
    )


async def _drawn(
    context: Context, model: ServedModel, operation: str, body: SampleBody, query: SampleQuery
) -> tuple[Call, Results]:
    """Samples from noise, or of what was given to be completed."""
    completes = sample_inputs.is_completion(body, model)
    pipeline = (
        sample_inputs.completion_pipeline(model, operation, body) if completes else model.pipeline(operation)
    )
    call = _call(model, pipeline, operation, body, query)
    kept: dict[Role, NDArray[Any]] = {}
    if completes:
        kept = await request_bodies.convert_json(
            body.size,
            lambda: sample_inputs.read_completion(body, model, context.limits.images),
            math.inf,
            context,
        )
    rows = _rows(body.document, len(kept[Role.mask]) if completes else 1)
    context.limits.images.check_count(rows)
    context.limits.images.check_total(rows, model.manifest.image.height, model.manifest.image.width)
    kept = {role: array.repeat(rows // len(array), axis=0) for role, array in kept.items()}
    return call, await call.run(context, rows, kept)


async def _interpolated(
    context: Context, model: ServedModel, operation: str, body: SampleBody, query: SampleQuery
) -> tuple[Call, Results]:
    """Points from one of two codes or images to the other."""
    sample_inputs.check_ends(body, operation.removeprefix(SAMPLE))
    encodes, sampling = body.images is not None, model.pipeline(operation)
    pipeline = model.pipeline_of("encode", *sampling.names) if encodes else sampling
    call = _call(model, pipeline, operation, body, query)
    rows = body.document.n or POINTS
    context.limits.images.check_count(rows)
    ends = await request_bodies.convert_json(
        body.size, lambda: sample_inputs.read_ends(body, model, context.limits.images), math.inf, context
    )
    # Before anything runs: n points of these ends may be more than two of them.
    context.limits.images.check_total(rows, *image_size(ends, model))
    if encodes:
        encoding = call._replace(pipeline=model.pipeline("encode"))
        ends = (await encoding.run(context, len(ends[Role.images]), ends)).arrays
    points = between(ends[Role.codes], rows)
    return call, await call._replace(pipeline=sampling).run(context, rows, points)


def _call(
    model: ServedModel, pipeline: Pipeline, operation: str, body: SampleBody, query: SampleQuery
) -> Call:
    """The call of a sampler. The operations before the sampler use default noise."""
    document = body.document
    return make_call(
        model,
        pipeline,
        document.parameters | (query.model_extra or {}),
        seed=document.seed,
        default_noise=pipeline.names[: pipeline.names.index(operation)],
        label=document.label,
        first=document.first,
        others=SampleQuery.model_fields,
    )


async def _decoded(
    context: Context, call: Call, states: NDArray[Any], label: NDArray[Any] | None
) -> NDArray[Any]:
    """The images of the states of chains: ``(N, S, *codes.shape)`` to uint8 ``(N, S, H, W, C)``."""
    model, (chains, passed) = call.model, states.shape[:2]
    pipeline = model.pipeline("decode")
    values = {**pipeline.defaults, **call.values}
    given = {} if label is None else {Role.label: label.repeat(passed)}
    given[Role.codes] = states.reshape(-1, *states.shape[2:])
    # The noise of the decoder is that of the chain, so that the last state has the image of the response.
    items = [call.first + item for item in range(chains) for _ in range(passed)]
    results = await context.scheduler.run(model, pipeline, given, len(items), values, call.seed, items=items)
    images = results.arrays[Role.images]
    return images.reshape(chains, passed, *images.shape[1:])


def _merged(body: SampleBody, query: SampleQuery) -> SampleBody:
    """The body and the query as one request. Raises BadValue if both say the same thing."""
    queried: dict[str, Any] = query.model_dump(include=set(SampleQuery.model_fields), exclude_unset=True)
    document: SampleDocument = body.document
    twice = sorted(
        document.model_fields_set & queried.keys()
        | document.parameters.keys() & (query.model_extra or {}).keys()
    )
    if twice:
        raise BadValue(f"both the body and the query say {', '.join(twice)}", given=twice)
    if query.box is not None:
        queried["box"] = [list(box) for box in masks.boxes_from_query(query.box)]
    return replace(body, document=document.model_copy(update=queried))


def _rows(wanted: SampleDocument, given: int) -> int:
    """How many samples: ``n``, or one for each row that was given, or one for each label."""
    if given == 1:
        labels = len(wanted.label) if isinstance(wanted.label, list) else 1
        return wanted.n if wanted.n is not None else labels
    if wanted.n not in (None, given):
        detail = (
            f"n is {wanted.n}, and {given} rows were given to complete; leave n out, or give one row to "
            f"complete n times"
        )
        raise BadValue(detail, given=wanted.n, allowed=[given])
    return given
