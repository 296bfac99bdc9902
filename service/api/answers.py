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


def of_codes(
    model: Model, codes: NDArray[Any], form: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Codes ``(N, *shape)`` in one of CODES_FORMS."""
    headers = _headers(model) | dict(headers or {})
    if form != JSON:
        return Response(npy.dump(codes), 200, headers, form)
    content = _told(model, codes) | {"dtype": str(codes.dtype), "codes": codes}
    return as_json(content, headers)


def of_images(
    model: Model,
    pixels: Pixels,
    form: str,
    more: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    columns: int | None = None,
) -> Response:
    """Images, uint8 ``(N, H, W, C)``, in one of IMAGES_FORMS: several as a PNG are a grid.

    ``more`` are further members of the JSON object. The grid has so many ``columns``, or is about square.
    """
    headers = _headers(model) | dict(headers or {})
    if form == PNG:
        return Response(images.to_png(images.grid(pixels, columns)), 200, headers, form)
    if form != JSON:
        return Response(npy.dump(pixels), 200, headers, form)
    content = _told(model, pixels) | {"images": images.to_base64(pixels)} | dict(more or {})
    return as_json(content, headers)


def of_chains(
    model: Model,
    pixels: Pixels,
    states: Pixels,
    form: str,
    more: Mapping[str, Any],
    headers: Mapping[str, str],
) -> Response:
    """Chains, by the images of their last states and of those on the way, uint8 ``(N, S, H, W, C)``.

    As PNG a row for each chain, as npy the states, as JSON the last states' images with those on the way.
    """
    if form == JSON:
        further = {"state_images": [images.to_base64(chain) for chain in states]}
        return of_images(model, pixels, form, {**more, **further}, headers)
    if form == PNG:
        flat = states.reshape(-1, *states.shape[2:])
        return of_images(model, flat, form, more, headers, columns=states.shape[1])
    return of_images(model, states, form, more, headers)


def of_figures(
    model: Model, figures: Mapping[str, NDArray[Any]], more: Mapping[str, Any], headers: Mapping[str, str]
) -> Response:
    """Figures of some rows, float32 ``(N,)`` by name, as JSON; ``more`` are further members."""
    rows = len(next(iter(figures.values())))
    told = {"model": model.manifest.name, "version": model.manifest.version, "shape": [rows]}
    return as_json({**told, **more, "figures": figures}, _headers(model) | dict(headers))


def _told(model: Model, array: NDArray[Any]) -> dict[str, Any]:
    return {"model": model.manifest.name, "version": model.manifest.version, "shape": list(array.shape)}


def _headers(model: Model) -> dict[str, str]:
    return {
        "X-Tessera-Model": model.manifest.name,
        "X-Tessera-Version": model.manifest.version,
        "Vary": "Accept",
    }
