"""``/score``: how likely a model finds images."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from service.api import content_negotiation, responses
from service.api.content_negotiation import JSON
from service.api.dependencies import Shared
from service.api.inference_call import fit_images, images_call
from service.api.middleware.fast_path import FastRoute
from service.api.openapi.document import IMAGES_BODY, SEED_HEADER, runs_model
from service.api.schemas import ImagesQuery, ModelResponse
from service.contract.manifest import Role


class ScoreResponse(ModelResponse):
    """How likely the model finds images, and all that is needed to get the same again."""

    shape: list[int]
    """`[n]`."""
    seed: int
    parameters: dict[str, float]
    figures: dict[str, list[float | None]]
    """By name, one for each image: in nats, and null if it is no finite number."""


router = APIRouter(tags=["scores"], route_class=FastRoute, default_response_class=Response)


@router.post("/score", **runs_model(ScoreResponse, body=IMAGES_BODY, headers=SEED_HEADER))
async def score(request: Request, context: Shared, query: Annotated[ImagesQuery, Query()]) -> Response:
    """Score how likely the model finds images, for example to find an outlier among many.

    The body is as for `/encode`, and images are scored as they are fitted or padded. The figures depend on
    the model: for a VAE the ELBO and its parts, and the negative log-likelihood by importance sampling,
    closer with more `samples`. The noise of the draws is that of `seed`; without one a seed is drawn, and is
    in the response.
    """
    content_negotiation.choose(request.scope, (JSON,))
    call, received = await images_call(request, context, query, "score")
    images = await fit_images(context, query, call.model, received)
    results = await call.run(context, len(images.pixels), {Role.images: images.pixels})
    more = {"seed": call.seed, "parameters": dict(call.values)}
    headers = {"X-Tessera-Seed": str(call.seed)}
    return await context.convert(
        lambda: responses.of_figures(call.model, results.figures, more, headers), len(images.pixels)
    )
