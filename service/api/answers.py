"""Answers: codes and images as JSON, npy or PNG, written straight from numpy."""

from collections.abc import Mapping
from typing import Any

import orjson
from numpy.typing import NDArray
from starlette.responses import Response

from service import images, npy
from service.api.accept import BYTES, JSON, NPY, PNG
from service.images import Pixels
from service.models import Model

CODES_FORMS = (JSON, NPY, BYTES)
IMAGES_FORMS = (PNG, JSON, NPY, BYTES)


def as_json(content: Any, headers: Mapping[str, str] | None = None) -> Response:
    """Any object, with numpy arrays in it, as JSON."""
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), 200, headers, JSON)


def of_codes(model: Model, codes: NDArray[Any], form: str) -> Response:
    """Codes ``(N, *shape)`` in one of CODES_FORMS."""
    if form != JSON:
        return Response(npy.dump(codes), 200, _headers(model), form)
    content = _told(model, codes) | {"dtype": str(codes.dtype), "codes": codes}
    return as_json(content, _headers(model))


def of_images(
    model: Model,
    pixels: Pixels,
    form: str,
    more: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Images, uint8 ``(N, H, W, C)``, in one of IMAGES_FORMS: several as a PNG are a grid.

    ``more`` are further members of the JSON object.
    """
    headers = _headers(model) | dict(headers or {})
    if form == PNG:
        return Response(images.to_png(images.grid(pixels)), 200, headers, form)
    if form != JSON:
        return Response(npy.dump(pixels), 200, headers, form)
    content = _told(model, pixels) | {"images": images.to_base64(pixels)} | dict(more or {})
    return as_json(content, headers)


def _told(model: Model, array: NDArray[Any]) -> dict[str, Any]:
    return {"model": model.manifest.name, "version": model.manifest.version, "shape": list(array.shape)}


def _headers(model: Model) -> dict[str, str]:
    return {
        "X-Tessera-Model": model.manifest.name,
        "X-Tessera-Version": model.manifest.version,
        "Vary": "Accept",
    }
