"""Pictures as the bodies of requests, and the bodies of responses as arrays."""

import base64
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx2
import numpy as np
import orjson
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel

from service.codecs import npy
from service.codecs.files import fast_png
from service.errors import BadArray, BadValue
from tessera.errors import UnexpectedResponse
from tessera.inputs import ReadPictures
from tessera.remote.exchange import Query, Request
from tessera.results import Images, Reconstruction, Samples, Scores

D = TypeVar("D", bound=BaseModel)

NPY, JSON, PNG = "application/x-npy", "application/json", "image/png"

_BEGINNINGS = ((b"\xff\xd8\xff", "image/jpeg"), (b"RIFF", "image/webp"))


def of_pictures(path: str, query: Query, pictures: ReadPictures, accept: str = JSON) -> Request:
    """A request with pictures: one file, several in a form, or an npy."""
    if pictures.pixels is not None:
        return Request("POST", path, query, npy.dump(pictures.pixels), NPY, accept)
    if len(pictures.files) == 1:
        (file,) = pictures.files
        media = next((media for beginning, media in _BEGINNINGS if file.startswith(beginning)), PNG)
        return Request("POST", path, query, file, media, accept)
    return Request("POST", path, query, accept=accept, files=tuple(pictures.files))


def of_document(path: str, document: Mapping[str, Any]) -> Request:
    """A request with JSON; members that are None are left out, and arrays are nested lists.

    Raises BadValue for what orjson does not write, such as a number of more than 64 bits.
    """
    given = {name: value for name, value in document.items() if value is not None}
    try:
        content = orjson.dumps(given, option=orjson.OPT_SERIALIZE_NUMPY)
    except orjson.JSONEncodeError as error:
        raise BadValue(f"what was given cannot be sent as JSON: {error}") from error
    return Request("POST", path, (), content, JSON)


@contextmanager
def _readable(response: httpx2.Response) -> Iterator[None]:
    """Turn an error while reading a body into UnexpectedResponse."""
    try:
        yield
    except (BadArray, KeyError, TypeError, ValueError, OSError) as error:
        raise _unexpected(response, error) from error


def _unexpected(response: httpx2.Response, error: Exception) -> UnexpectedResponse:
    media = response.headers.get("Content-Type", "no content type")
    detail = f"{response.url} responds with {media} that is not of this API: {error}"
    return UnexpectedResponse(" ".join(detail.split()), response.status_code)


def array(response: httpx2.Response) -> NDArray[Any]:
    """The array of an npy."""
    try:
        return npy.load(response.content).copy()
    except BadArray as error:
        raise _unexpected(response, error) from error


def document(kind: type[D], response: httpx2.Response) -> D:
    """A JSON object; members that this version does not know are ignored."""
    with _readable(response):
        return kind.model_validate_json(response.content, extra="ignore")


def reconstruction(response: httpx2.Response) -> Reconstruction:
    """The response of ``/reconstruct``."""
    with _readable(response):
        given = orjson.loads(response.content)
        psnr = [np.inf if each is None else each for each in given["psnr"]]
        return Reconstruction(
            _images(given["images"]), np.array(given["mse"], np.float64), np.array(psnr, np.float64)
        )


def scores(response: httpx2.Response) -> Scores:
    """The response of ``/score``."""
    with _readable(response):
        given = orjson.loads(response.content)
        return Scores(_figures(given["figures"]), given["seed"], given["parameters"])


def samples(response: httpx2.Response) -> Samples:
    """The response of ``/sample``."""
    with _readable(response):
        given = orjson.loads(response.content)

        def maybe(name: str, read: Callable[[Any], NDArray[Any]]) -> Any:
            return None if given[name] is None else read(given[name])

        return Samples(
            images=_images(given["images"]),
            codes=maybe("codes", _codes),
            labels=maybe("labels", lambda labels: np.array(labels, np.int64)),
            mask=maybe("mask", lambda mask: np.array(mask, np.bool_)),
            states=maybe("states", _codes),
            state_images=maybe("state_images", lambda rows: np.stack([_images(row) for row in rows])),
            figures=_figures(given["figures"] or {}),
            method=given["method"],
            seed=given["seed"],
            parameters=given["parameters"],
        )


def _codes(nested: Sequence[Any]) -> NDArray[Any]:
    codes = np.array(nested)
    return codes.astype(np.int32 if codes.dtype.kind == "i" else np.float32)


def _figures(given: Mapping[str, Sequence[float | None]]) -> dict[str, NDArray[np.float32]]:
    return {
        name: np.array([np.nan if each is None else each for each in figures], np.float32)
        for name, figures in given.items()
    }


def _images(texts: Sequence[str]) -> Images:
    """Images in base64 PNG of one size: uint8 ``(N, H, W, C)``."""
    return np.stack([_image(base64.b64decode(text)) for text in texts])


def _image(png: bytes) -> Images:
    pixels = fast_png.decode(png, fast_png.MOST_PIXELS_READ)
    if pixels is None:
        pixels = np.asarray(Image.open(io.BytesIO(png), formats=["PNG"]))
    return pixels if pixels.ndim == 3 else pixels[:, :, None]
