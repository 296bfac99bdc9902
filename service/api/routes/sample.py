"""``/sample``: new images, from noise, by any method that the model was exported with.

Methods that can keep codes also complete what they are given (``service.api.routes.sample_inputs``), and
others go from one code to another. What a chain passed on its way is answered too.
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
from service.api.dependencies import Context, Shared
from service.api.inference_call import Call, choose_model, make_call
from service.api.openapi import SAMPLE as SAMPLE_CALL
from service.api.request_bodies import SentSample
from service.api.routes import sample_inputs
from service.api.schemas import SampleDocument, SampleQuery
from service.codecs import masks
from service.codecs.images import check_count, check_total
from service.contract.manifest import Role
from service.contract.runner import Results
from service.errors import BadValue, TooLarge
from service.models.model import ServedModel
from service.models.pipeline import SAMPLE, Pipeline
from service.settings import Settings

router = APIRouter(tags=["samples"], default_response_class=Response)


@router.post("/sample", **SAMPLE_CALL)
async def sample(request: Request, context: Shared, query: Annotated[SampleQuery, Query()]) -> Response:
    """Draw new images, complete some, or go from one to another.

    The request is JSON, or plain query parameters: `/sample?method=langevin&steps=200&n=16&seed=1`. The same
    seed gives the same images, each whatever `n` is; without one a seed is drawn and told, in the JSON and
    in the header `X-Tessera-Seed`. As PNG, several images come as a grid.

    Methods that take a mask also complete: given `codes` and a `mask`, they sample the codes where it is true
    and keep the others; given an image and a `box`, they do the same with the image's codes, and sample those
    that the box touches. The image comes in JSON, or is the body as for `/encode`, with the box in the query:
    `/sample?box=0,14,28,28&n=8`. Of one image or row of codes come `n` completions, of several one each.

    Methods that take a target go from one code to another: given two rows of `codes`, or two images, they
    answer `n` points evenly on the way, both ends among them: `/sample?method=interpolate&n=9`.

    A chain that is asked for its states (`every=20`) answers these instead of its last alone: as PNG a row of
    images for each sample, as npy `[n, states, h, w, c]`, in JSON beside it.
    """
    form = content_negotiation.choose(
        content_negotiation.header(request.scope, b"accept"), responses.IMAGES_FORMS
    )
    sent = _merged(await request_bodies.read_sample(request, context), query)
    model = choose_model(context, sent.document)
    operation = model.sampler(sent.document.method)
    method = operation.removeprefix(SAMPLE)
    goes_between = method in model.methods_that_take(Role.target)
    run = _gone_between if goes_between else _drawn
    call, results = await run(context, model, operation, sent, query)
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
    if passed is not None:
        return await context.convert(lambda: responses.of_chains(model, pixels, passed, form, more, headers))
    columns = len(pixels) if goes_between else None
    more["state_images"] = None
    weight = pixels.size + sum(array.size for array in arrays.values())
    return await context.convert(
        lambda: responses.of_images(model, pixels, form, more, headers, columns), weight
    )


async def _drawn(
    context: Context, model: ServedModel, operation: str, sent: SentSample, query: SampleQuery
) -> tuple[Call, Results]:
    """Samples from noise, or of what was given to be completed."""
    completes = sample_inputs.is_completion(sent, model)
    pipeline = (
        sample_inputs.completion_pipeline(model, operation, sent) if completes else model.pipeline(operation)
    )
    call = _call(model, pipeline, operation, sent, query)
    kept: dict[Role, NDArray[Any]] = {}
    if completes:
        kept = await request_bodies.convert_json(
            sent.size, lambda: sample_inputs.read_completion(sent, model, context.settings), math.inf, context
        )
    rows = _rows(sent.document, len(kept[Role.mask]) if completes else 1)
    check_count(rows, context.settings)
    check_total(rows, model.manifest.image.height, model.manifest.image.width, context.settings)
    kept = {role: array.repeat(rows // len(array), axis=0) for role, array in kept.items()}
    return call, await call.run(context, rows, kept)


async def _gone_between(
    context: Context, model: ServedModel, operation: str, sent: SentSample, query: SampleQuery
) -> tuple[Call, Results]:
    """Points from one of two codes or images to the other."""
    sample_inputs.check_ends(sent, operation.removeprefix(SAMPLE))
    encodes, sampling = sent.images is not None, model.pipeline(operation)
    pipeline = model.pipeline_of("encode", *sampling.names) if encodes else sampling
    call = _call(model, pipeline, operation, sent, query)
    rows = sent.document.n or sample_inputs.POINTS
    check_count(rows, context.settings)
    ends = await request_bodies.convert_json(
        sent.size, lambda: sample_inputs.read_ends(sent, model, context.settings), math.inf, context
    )
    # Before anything runs: n points of these ends may be more than two of them.
    check_total(rows, *sample_inputs.image_size(ends, model), context.settings)
    if encodes:
        encoding = call._replace(pipeline=model.pipeline("encode"))
        ends = (await encoding.run(context, len(ends[Role.images]), ends)).arrays
    between = sample_inputs.between(ends[Role.codes], rows)
    return call, await call._replace(pipeline=sampling).run(context, rows, between)


def _call(
    model: ServedModel, pipeline: Pipeline, operation: str, sent: SentSample, query: SampleQuery
) -> Call:
    """A call of a sampler. The operations before the sampler use default noise."""
    wanted = sent.document
    return make_call(
        model,
        pipeline,
        wanted.parameters | query.parameters(),
        seed=wanted.seed,
        default_noise=pipeline.names[: pipeline.names.index(operation)],
        label=wanted.label,
        others=SampleQuery.model_fields,
    )


def check_states(model: ServedModel, states: NDArray[Any], settings: Settings) -> None:
    """Raise TooLarge if the images of states ``(N, S, *codes.shape)`` are more than one answer may have."""
    (chains, passed), image = states.shape[:2], model.manifest.image
    try:
        check_total(chains * passed, image.height, image.width, settings)
    except TooLarge as error:
        detail = f"{chains} chains with {passed} states each: {error}; ask for fewer samples or states"
        raise TooLarge(detail, **error.members) from error


async def _decoded(
    context: Context, call: Call, states: NDArray[Any], label: NDArray[Any] | None
) -> NDArray[Any]:
    """The images of the states of chains: ``(N, S, *codes.shape)`` to uint8 ``(N, S, H, W, C)``.

    Raises TooLarge.
    """
    model, (chains, passed) = call.model, states.shape[:2]
    check_states(model, states, context.settings)
    pipeline = model.pipeline("decode")
    values = {**pipeline.defaults, **call.values}
    given = {} if label is None else {Role.label: label.repeat(passed)}
    given[Role.codes] = states.reshape(-1, *states.shape[2:])
    # The noise of a decoder is that of the chain, so that the last state has the picture of the answer.
    items = [item for item in range(chains) for _ in range(passed)]
    results = await context.scheduler.run(model, pipeline, given, len(items), values, call.seed, items=items)
    images = results.arrays[Role.images]
    return images.reshape(chains, passed, *images.shape[1:])


def _merged(sent: SentSample, query: SampleQuery) -> SentSample:
    """The body and the query as one request. Raises BadValue if both say the same thing."""
    asked: dict[str, Any] = query.model_dump(include=set(SampleQuery.model_fields), exclude_unset=True)
    document: SampleDocument = sent.document
    twice = sorted(
        document.model_fields_set & asked.keys() | document.parameters.keys() & query.parameters().keys()
    )
    if twice:
        raise BadValue(f"both the body and the query say {', '.join(twice)}", given=twice)
    if query.box is not None:
        asked["box"] = [list(box) for box in masks.boxes_from_query(query.box)]
    return replace(sent, document=document.model_copy(update=asked))


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
