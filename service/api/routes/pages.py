"""What a browser opens: ``/``, to see what the models do, and ``/docs``, to read the API and send requests.

| page    | its files                              | addresses in it                                       |
| ------- | -------------------------------------- | ----------------------------------------------------- |
| `/`     | those of ``service.page.files``        | of this service alone; the headers forbid all others  |
| `/docs` | `/openapi.json`, and fastapi-offline's | relative, so a proxy may serve the page below a path  |
"""

from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from service.api.content_negotiation import JSON, listed
from service.api.responses import json_bytes
from service.page.files import PageFile, PageFiles

# `data:` and `blob:` are pictures that the page gets as JSON, or from the disk.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'self'; form-action 'none'; frame-ancestors 'self'"
)
_HEADERS = {"X-Content-Type-Options": "nosniff", "Vary": "Accept-Encoding"}
# A reload of the page asks whether it changed; the path of a file changes with its content.
_CHECKED, _KEPT = "no-cache", "public, max-age=31536000, immutable"

_FILES = "static-offline-docs"
_PARAMETERS = {
    "validatorUrl": None,  # the default sends the document to another host
    "defaultModelsExpandDepth": 0,  # the calls first; one click shows the objects
}

router = APIRouter(include_in_schema=False, default_response_class=Response)


@router.get("/")
async def page(request: Request) -> Response:
    """The page."""
    files: PageFiles = request.app.state.page
    further = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer", "Cache-Control": _CHECKED}
    return _response(request, files.index, further)


@router.get("/page/{version}/{path:path}")
async def page_file(request: Request, version: str, path: str) -> Response:
    """A file of the page; 404 for one of another version."""
    files: PageFiles = request.app.state.page
    file = files.files.get(path) if version == files.version else None
    if file is None:
        raise HTTPException(404)
    return _response(request, file, {"Cache-Control": _KEPT})


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    """The API as a document."""
    return Response(json_bytes(request.app.openapi()), media_type=JSON)


@router.get("/docs")
async def docs() -> Response:
    """The API as a page."""
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


def _response(request: Request, file: PageFile, further: dict[str, str]) -> Response:
    """The file, as gzip where the client takes it; 304 without it where the client has it."""
    takes_gzip = file.gzipped is not None and _takes_gzip(request)
    # The bytes differ, so the strong ETags do.
    etag = f'"{file.etag}-gzip"' if takes_gzip else f'"{file.etag}"'
    headers = {**_HEADERS, **further, "ETag": etag}
    known = listed(request.scope, b"if-none-match").split(",")
    if any(each.strip().removeprefix("W/") in (etag, "*") for each in known):
        return Response(status_code=304, headers=headers)
    if takes_gzip:
        headers["Content-Encoding"] = "gzip"
    return Response(file.gzipped if takes_gzip else file.content, 200, headers, file.media_type)


def _takes_gzip(request: Request) -> bool:
    for item in listed(request.scope, b"accept-encoding").split(","):
        coding, _, quality = item.replace(" ", "").partition(";q=")
        if coding.lower() in ("gzip", "*"):
            return quality.strip("0.") != "" if quality else True
    return False
