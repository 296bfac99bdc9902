"""``/``: a page to see what the models do. Its files are those of ``service.page.files``.

The page has no script and no style but its own, calls no service but this one, and sets no cookie.
"""

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.api.content_negotiation import listed
from service.page.files import PageFile, PageFiles

# `data:` and `blob:` are pictures that the page gets as JSON, or from the disk.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'self'; form-action 'none'; frame-ancestors 'self'"
)
_HEADERS = {"X-Content-Type-Options": "nosniff", "Vary": "Accept-Encoding"}
# A reload of the page asks whether it changed; the path of a file changes with its content.
_CHECKED, _KEPT = "no-cache", "public, max-age=31536000, immutable"

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
