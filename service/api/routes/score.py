"""``/score``: how likely a model finds images."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from service.api import content_negotiation, responses
from service.api.content_negotiation import JSON
from service.api.dependencies import Shared
from service.api.openapi import SCORE
from service.api.routes.codes import images_call
from service.api.schemas import ImagesQuery
from service.contract.manifest import Role

router = APIRouter(tags=["scores"], default_response_class=Response)


@router.post("/score", **SCORE)
async def score(request: Request, context: Shared, query: Annotated[ImagesQuery, Query()]) -> Response:
    """Tell how likely the model finds images: to find the odd one among many, say.

    The body is as for `/encode`. The figures are the model's own: for a VAE the ELBO and its parts, and the
    negative log-likelihood by importance sampling, closer with more `samples`. The noise of the draws is that
    of `seed`; without one a seed is drawn and told.
    """
    content_negotiation.choose(content_negotiation.header(request.scope, b"accept"), (JSON,))
    call, pixels = await images_call(request, context, query, "score")
    results = await call.run(context, len(pixels), {Role.images: pixels})
    more = {"seed": call.seed, "parameters": dict(call.values)}
    headers = {"X-Tessera-Seed": str(call.seed)}
    return await context.convert(
        lambda: responses.of_figures(call.model, results.figures, more, headers), len(pixels)
    )
