"""``/models``: the models that are served, their codebooks and previews, and reloading."""

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response

from service.api import content_negotiation
from service.api.content_negotiation import BYTES, JSON, NPY, PNG, SAFETENSORS
from service.api.dependencies import ON_LOOP, Context, Shared
from service.api.middleware.local_clients import why_not_local
from service.api.openapi.document import file_response, problems
from service.api.responses import json_bytes
from service.api.schemas import Document, NamedVersion
from service.codecs import npy
from service.contract.manifest import CodesSpec, ImageSpec, Measures, Operation, Parity
from service.contract.measures import HalfPrecision, Precision, PrecisionGraphs
from service.errors import MissingFile, NotLocal
from service.models.model import ServedModel
from service.models.reload import Reload
from service.observability.call_record import current_call
from service.settings import variable


class ModelSummary(NamedVersion):
    """A model in the list of models."""

    kind: str
    default: bool
    """Whether it is the model for requests that name none."""
    image: ImageSpec
    codes: CodesSpec
    operations: list[str]
    precision: Precision
    """In which precision it runs: `32`, `16` or `bf16`."""
    precisions: list[Precision]
    """The precisions that it has graphs in."""


class Limits(Document):
    """What one request may hold; each has the name of its setting."""

    max_images: int
    max_pixels: int
    max_total_pixels: int
    max_body_bytes: int


class ModelList(Document):
    """The models that are served."""

    models: list[ModelSummary]
    limits: Limits


class ModelDetail(NamedVersion):
    """A model in full."""

    kind: str
    created: str
    git_revision: str | None
    seed: int
    provider: str
    """Where it runs: `cpu` or `cuda`."""
    reason: str
    """Why it runs there."""
    precision: Precision
    """In which precision it runs: `32`, `16` or `bf16`."""
    precision_reason: str | None
    """Why it does not run in the precision of the setting."""
    precisions: dict[HalfPrecision, PrecisionGraphs]
    """The graphs in half precision that it has, and how closely they agreed with float32 at export."""
    image: ImageSpec
    codes: CodesSpec
    labels: tuple[str, ...] | None
    operations: dict[str, Operation]
    codebook: list[int] | None
    """Shape of the codebook."""
    measures: tuple[Measures, ...]
    parity: Parity | None


def _chosen(name: str, context: Context) -> ServedModel:
    model = context.registry.choose(name)
    current_call.get().model = model.manifest.name
    return model


router = APIRouter(prefix="/models", tags=["models"])

ModelName = Annotated[str, Path(description="Name of a model.", max_length=64)]

CODEBOOK_FORMS = (SAFETENSORS, JSON, NPY, BYTES)


@router.get("")
async def list_models(context: Shared) -> ModelList:
    """List the models that are served, and what one request may hold."""
    registry = context.registry
    summaries = [
        ModelSummary(
            **model.manifest.model_dump(include={"name", "kind", "version", "image", "codes"}),
            default=name == registry.default,
            operations=sorted(model.manifest.operations),
            precision=model.precision,
            precisions=["32", *sorted(model.manifest.precisions)],
        )
        for name, model in registry.models.items()
    ]
    limits = {name: getattr(context.settings, name) for name in Limits.model_fields}
    return ModelList(models=summaries, limits=Limits(**limits))


@router.post("/reload", responses=problems(403, 503))
async def reload(request: Request, context: Shared) -> Reload:
    """Load new and changed models and drop removed ones, in every worker, without downtime.

    All workers prepare, and then all swap: if one fails, or they do not agree, none swaps, and the response
    is 503. A second reload waits for the first. An invalid model bundle is refused with the reason; a version
    that was served before stays. A reload needs the key `reload_key`, if the service has one; else only
    clients on the same machine may reload.
    """
    if context.settings.reload_key is None and (why := why_not_local(request.scope)) is not None:
        raise NotLocal(
            "only clients on the same machine may reload, unless the service has a key for it "
            f"({variable('reload_key')}); this request does not count as one: {why}"
        )
    (outcome,) = await context.control.broadcast("reload")
    if not isinstance(outcome, Reload):
        raise outcome
    return outcome


@router.get("/{name}", responses=problems(404, 422, 503))
async def show_model(name: ModelName, context: Shared) -> ModelDetail:
    """Show the inputs and outputs of a model, its operations with their parameters, and its metrics."""
    model = _chosen(name, context)
    manifest = model.manifest
    return ModelDetail(
        **manifest.model_dump(include=set(ModelDetail.model_fields) - {"codebook"}),
        provider=model.provider.name,
        reason=model.provider.reason,
        precision=model.precision,
        precision_reason=model.precision_reason,
        codebook=list(manifest.codebook.shape) if manifest.codebook else None,
    )


@router.get(
    "/{name}/codebook",
    response_class=Response,
    responses=file_response(
        "The code vectors, float32 `[size, dimension]`; of each level, `[levels, size, dimension]`.",
        SAFETENSORS,
        NPY,
        BYTES,
        JSON,
    )
    | problems(404, 406, 422, 503),
)
async def show_codebook(name: ModelName, request: Request, context: Shared) -> Response:
    """Show the code vectors, as the safetensors file, npy or JSON."""
    form = content_negotiation.choose(request.scope, CODEBOOK_FORMS)
    bundle = _chosen(name, context).bundle
    vectors = bundle.vectors
    if bundle.codebook is None or vectors is None:
        raise MissingFile(f"model {name!r} has no codebook")
    headers = {"Vary": "Accept"}
    weight = max(ON_LOOP + 1, vectors.size)
    if form == JSON:
        content = {"model": name, "version": bundle.manifest.version, "shape": list(vectors.shape)}
        text = await context.convert(lambda: json_bytes(content | {"codebook": vectors}), weight)
        return Response(text, 200, headers, JSON)
    if form == NPY:
        return Response(await context.convert(lambda: npy.dump(vectors), weight), 200, headers, NPY)
    headers["Content-Disposition"] = f'attachment; filename="{name}.safetensors"'
    return Response(bundle.codebook, 200, headers, form)


@router.get(
    "/{name}/preview.png",
    response_class=Response,
    responses=file_response("Originals, reconstructions and samples.", PNG) | problems(404, 422, 503),
)
async def show_preview(name: ModelName, context: Shared) -> Response:
    """Show the preview image of the export: originals, reconstructions and samples."""
    preview = _chosen(name, context).bundle.preview
    if preview is None:
        raise MissingFile(f"model {name!r} has no preview")
    return Response(preview, media_type=PNG)
