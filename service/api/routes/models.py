"""``/models``: what is served, the codebooks and previews, and loading anew."""

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response

from service.api import content_negotiation
from service.api.content_negotiation import BYTES, JSON, NPY, PNG, SAFETENSORS
from service.api.dependencies import Shared
from service.api.middleware.local_clients import why_not_local
from service.api.openapi import file_answer, problems
from service.api.responses import json_bytes
from service.api.schemas import ModelDetail, ModelList, ModelSummary
from service.codecs import npy
from service.errors import MissingFile, NotLocal
from service.models.registry import Reload
from service.settings import variable

router = APIRouter(prefix="/models", tags=["models"])

ModelName = Annotated[str, Path(description="Name of a model.", max_length=64)]

CODEBOOK_FORMS = (SAFETENSORS, JSON, NPY, BYTES)


@router.get("")
async def list_models(context: Shared) -> ModelList:
    """List the models that are served."""
    registry = context.registry
    summaries = [
        ModelSummary(
            **model.manifest.model_dump(include={"name", "kind", "version", "image", "codes"}),
            default=name == registry.default,
            operations=sorted(model.manifest.operations),
        )
        for name, model in registry.models.items()
    ]
    return ModelList(models=summaries)


@router.post("/reload", responses=problems(403, 503))
async def reload(request: Request, context: Shared) -> Reload:
    """Load new and changed folders, drop removed ones, in every worker; what runs goes on.

    All workers load first and then all swap: if one cannot, or they do not agree, none does, and the answer
    is 503. A second reload waits for the first. A folder that does not verify is refused with the reason; if
    it was served before, that stays. Needs the key for it, if the service has one; else it answers only to
    clients on the same machine.
    """
    if context.settings.reload_key is None and (why := why_not_local(request.scope)) is not None:
        raise NotLocal(
            "the models are reloaded only for clients on the same machine, unless the service has a key for "
            f"it ({variable('reload_key')}), and this request is not taken for one: {why}"
        )
    (outcome,) = await context.crew.ask("reload")
    if not isinstance(outcome, Reload):
        raise outcome
    return outcome


@router.get("/{name}", responses=problems(404, 422, 503))
async def show_model(name: ModelName, context: Shared) -> ModelDetail:
    """Show what a model takes and gives, its operations with their parameters, and how good it is."""
    model = context.registry.choose(name)
    manifest = model.manifest
    return ModelDetail(
        **manifest.model_dump(include=set(ModelDetail.model_fields) - {"codebook"}),
        provider=model.provider.name,
        reason=model.provider.reason,
        codebook=list(manifest.codebook.shape) if manifest.codebook else None,
    )


@router.get(
    "/{name}/codebook",
    response_class=Response,
    responses=file_answer("The code vectors, float32 `[size, dimension]`.", SAFETENSORS, NPY, BYTES, JSON)
    | problems(404, 406, 422, 503),
)
async def show_codebook(name: ModelName, request: Request, context: Shared) -> Response:
    """Give the code vectors, as the safetensors file, npy or JSON."""
    form = content_negotiation.choose(content_negotiation.header(request.scope, b"accept"), CODEBOOK_FORMS)
    folder = context.registry.choose(name).bundle
    vectors = folder.vectors
    if folder.codebook is None or vectors is None:
        raise MissingFile(f"model {name!r} has no codebook")
    headers = {"Vary": "Accept"}
    if form == JSON:
        content = {"model": name, "version": folder.manifest.version, "shape": list(vectors.shape)}
        text = await context.convert(lambda: json_bytes(content | {"codebook": vectors}))
        return Response(text, 200, headers, JSON)
    if form == NPY:
        return Response(await context.convert(lambda: npy.dump(vectors)), 200, headers, NPY)
    headers["Content-Disposition"] = f'attachment; filename="{name}.safetensors"'
    return Response(folder.codebook, 200, headers, form)


@router.get(
    "/{name}/preview.png",
    response_class=Response,
    responses=file_answer("Originals, reconstructions and samples.", PNG) | problems(404, 422, 503),
)
async def show_preview(name: ModelName, context: Shared) -> Response:
    """Give the picture that was made when the model was exported."""
    preview = context.registry.choose(name).bundle.preview
    if preview is None:
        raise MissingFile(f"model {name!r} has no preview")
    return Response(preview, media_type=PNG)
