"""``/sample``: new images, from noise, by any method that the model was exported with.

Methods that can keep codes also complete what they are given: see ``service.api.completion``.
"""

from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from service import masks
from service.api import accept, answers, bodies, completion
from service.api.bodies import SentSample
from service.api.calls import choose_model, make_call
from service.api.context import Shared
from service.api.documents import SampleAnswer, SampleDocument, SampleQuery
from service.api.openapi import images_answer, problems, sample_body
from service.errors import BadValue
from service.images import check_count, check_total
from service.manifest import Role
from service.models import SAMPLE

router = APIRouter(tags=["samples"], default_response_class=Response)


@router.post(
    "/sample",
    responses=images_answer(SampleAnswer, seed=True) | problems(400, 404, 406, 409, 413, 415, 422, 503),
    openapi_extra=sample_body(),
)
async def sample(request: Request, context: Shared, query: Annotated[SampleQuery, Query()]) -> Response:
    """Draw new images, or complete some.

    The request is JSON, or plain query parameters: `/sample?method=langevin&steps=200&n=16&seed=1`. The same
    seed gives the same images, each whatever `n` is; without one a seed is drawn and told, in the JSON and
    in the header `X-Tessera-Seed`. As PNG, several images come as a grid.

    Methods that take a mask also complete: given `codes` and a `mask`, they sample the codes where it is true
    and keep the others; given an image and a `box`, they do the same with the image's codes, and sample those
    that the box touches. The image comes in JSON, or is the body as for `/encode`, with the box in the query:
    `/sample?box=0,14,28,28&n=8`. Of one image or row of codes come `n` completions, of several one each.
    """
    form = accept.choose(request.headers.get("accept"), answers.IMAGES_FORMS)
    sent = _merged(await bodies.read_sample(request, context.settings), query)
    wanted = sent.document
    completes = completion.is_asked(sent)
    model = choose_model(context, None, wanted.model, wanted.version)
    operation = model.sampler(wanted.method)
    call = make_call(
        model,
        completion.chain(model, operation, sent) if completes else model.chain(operation),
        wanted.parameters | query.parameters(),
        seed=wanted.seed,
        label=wanted.label,
        others=SampleQuery.model_fields,
    )
    given: dict[Role, NDArray[Any]] = {}
    if completes:
        given = await context.convert(lambda: completion.read(sent, model, context.settings))
    rows = _rows(wanted, len(given[Role.mask]) if completes else 1)
    check_count(rows, context.settings)
    check_total(rows, model.manifest.image.height, model.manifest.image.width, context.settings)
    results = await call.run(context, rows, completion.repeated(given, rows))
    more = {
        "method": operation.removeprefix(SAMPLE),
        "seed": call.seed,
        "parameters": call.values,
        "labels": results.get(Role.label),
        "codes": results.get(Role.codes),
        "mask": results[Role.mask].astype(np.uint8) if completes else None,
    }
    headers = {"X-Tessera-Seed": str(call.seed)}
    return await context.convert(lambda: answers.of_images(model, results[Role.images], form, more, headers))


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
        raise BadValue(
            f"n is {wanted.n}, and {given} rows were given to complete; leave n out, or give one row to "
            f"complete n times",
            given=wanted.n,
            allowed=[given],
        )
    return given
