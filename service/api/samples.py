"""``/sample``: new images, from noise, by any method that the model was exported with."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from service.api import accept, answers, bodies
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
    """Draw new images.

    The request is JSON, or plain query parameters: `/sample?method=langevin&steps=200&n=16&seed=1`. The same
    seed gives the same images, each whatever `n` is; without one a seed is drawn and told, in the JSON and
    in the header `X-Tessera-Seed`. As PNG, several images come as a grid.
    """
    form = accept.choose(request.headers.get("accept"), answers.IMAGES_FORMS)
    wanted = _merged(await bodies.read_sample(request), query)
    model = choose_model(context, None, wanted.model, wanted.version)
    operation = model.sampler(wanted.method)
    call = make_call(
        model,
        model.chain(operation),
        wanted.parameters | query.parameters(),
        seed=wanted.seed,
        label=wanted.label,
        others=SampleQuery.model_fields,
    )
    several = len(wanted.label) if isinstance(wanted.label, list) else 1
    rows = wanted.n if wanted.n is not None else several
    check_count(rows, context.settings)
    check_total(rows, model.manifest.image.height, model.manifest.image.width, context.settings)
    results = await call.run(context, rows, {})
    more = {
        "method": operation.removeprefix(SAMPLE),
        "seed": call.seed,
        "parameters": call.values,
        "labels": results.get(Role.label),
        "codes": results.get(Role.codes),
    }
    headers = {"X-Tessera-Seed": str(call.seed)}
    return await context.convert(lambda: answers.of_images(model, results[Role.images], form, more, headers))


def _merged(sent: SampleDocument, query: SampleQuery) -> SampleDocument:
    """The body and the query as one request. Raises BadValue if both say the same thing."""
    asked: Mapping[str, Any] = query.model_dump(include=set(SampleQuery.model_fields), exclude_unset=True)
    twice = sorted(sent.model_fields_set & asked.keys() | sent.parameters.keys() & query.parameters().keys())
    if twice:
        raise BadValue(f"both the body and the query say {', '.join(twice)}", given=twice)
    return sent.model_copy(update=dict(asked))
