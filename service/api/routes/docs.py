"""``/openapi.json``: the API as a document, and ``/docs``: as a page that can send requests.

The addresses are relative, so a proxy may serve the page below a path. fastapi-offline has the files.
"""

from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from service.api.content_negotiation import JSON
from service.api.responses import json_bytes

router = APIRouter(include_in_schema=False, default_response_class=Response)

_FILES = "static-offline-docs"
_PARAMETERS = {
    "validatorUrl": None,  # the default sends the document to another host
    "defaultModelsExpandDepth": 0,  # the calls first; one click shows the objects
}


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    """The document."""
    return Response(json_bytes(request.app.openapi()), media_type=JSON)


@router.get("/docs")
async def docs() -> Response:
    """The page."""
    return get_swagger_ui_html(
        openapi_url="openapi.json",
        title="Tessera",
        swagger_js_url=f"{_FILES}/swagger-ui-bundle.js",
        swagger_css_url=f"{_FILES}/swagger-ui.css",
        swagger_favicon_url=f"{_FILES}/favicon.png",
        swagger_ui_parameters=_PARAMETERS,
    )


@router.get("/docs/")
async def docs_folder() -> Response:
    """Lead to the page, whose addresses are relative to the folder above."""
    return RedirectResponse("../docs")
