"""Responses: codes and images as JSON, npy or PNG, written directly from numpy."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import lru_cache
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from service.api.content_negotiation import BYTES, JSON, NPY, PNG
from service.codecs import images, npy
from service.codecs.images import Pixels
from service.codecs.large.scratch_file import ScratchFile
from service.contract.image_grid import grid
from service.models.model import ServedModel

Parts = tuple[bytes, memoryview]
"""A body in two parts: the header of an npy file, and the memory of its array."""

CODES_FORMS = (JSON, NPY, BYTES)
IMAGES_FORMS = (PNG, JSON, NPY, BYTES)

# Bytes of an array; a longer one is not copied to follow its header.
_COPIED = 2**16
# Bytes of a file that are sent at a time: base64 has four characters for three of them.
_SENT = 3 * 2**16


def json_bytes(content: Any) -> bytes:
    """Any object, with numpy arrays in it, as JSON."""
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def of_codes(
    model: ServedModel,
    codes: NDArray[Any],
    form: str,
    headers: Mapping[str, str] | None = None,
    size: tuple[int, int] | None = None,
) -> Response:
    """Codes ``(N, *shape)`` in one of CODES_FORMS.

    ``size`` is the height and width in pixels of the images before they were padded, if they were.
    """
    if size is not None:
        headers = {**(headers or {}), "X-Tessera-Size": f"{size[0]}x{size[1]}"}
    if form != JSON:
        return response(_npy(codes), model, form, headers)
    more = {} if size is None else {"size": size}
    content = {**_members(model, codes.shape), "dtype": model.manifest.codes.dtype, **more, "codes": codes}
    return response(json_bytes(content), model, form, headers)


def of_images(
    model: ServedModel,
    pixels: Pixels,
    form: str,
    more: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    columns: int | None = None,
) -> Response:
    """Images, uint8 ``(N, H, W, C)``, in one of IMAGES_FORMS: several as a PNG are a grid.

    ``more`` are further members of the JSON object. Without ``columns`` the grid is about square.
    """
    if form == PNG:
        return response(images.to_png(grid(pixels, columns)), model, form, headers)
    if form != JSON:
        return response(_npy(pixels), model, form, headers)
    content = {**_members(model, pixels.shape), "images": images.to_base64(pixels), **(more or {})}
    return response(json_bytes(content), model, form, headers)


def of_image_file(
    model: ServedModel, scratch: ScratchFile, shape: tuple[int, ...], form: str, more: Mapping[str, Any]
) -> Response:
    """One image of ``shape``, (1, H, W, C), in a file, which is closed when it is sent.

    The file is a PNG, or for the forms NPY and BYTES an npy. ``more`` are further members of the JSON object.
    Raises InflightBytesExceeded if the file cannot be finished.
    """
    size = scratch.finish()
    before = after = b""
    if form == JSON:
        content = json_bytes({**_members(model, shape), **more, "images": [""]})
        # The text of the image goes between the quotation marks.
        before, after = content[: -len(b'"]}')], content[-len(b'"]}') :]
        size = len(content) + 4 * -(-size // 3)
    headers = _headers(model.manifest.name, model.manifest.version, form)
    parts = _parts_of_file(scratch, before, after, in_base64=form == JSON)
    return _FileResponse(scratch, parts, [(b"content-length", b"%d" % size), *headers])


def _parts_of_file(scratch: ScratchFile, before: bytes, after: bytes, *, in_base64: bool) -> Iterator[bytes]:
    if before:
        yield before
    while chunk := scratch.file.read(_SENT):
        yield base64.b64encode(chunk) if in_base64 else chunk
    if after:
        yield after


class _FileResponse(StreamingResponse):
    """The parts of a file, which is closed at the end, however that comes.

    A StreamingResponse alone would leave the file of a client that disconnects to the garbage collector.
    """

    def __init__(
        self, scratch: ScratchFile, parts: Iterator[bytes], headers: Sequence[tuple[bytes, bytes]]
    ) -> None:
        super().__init__(parts)
        self._scratch, self.raw_headers = scratch, list(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with closing(self._scratch):
            await super().__call__(scope, receive, send)


def distances(mse: Sequence[float]) -> dict[str, list[float] | list[float | None]]:
    """The members with the distance of reconstructions: MSE of pixels in [0, 1], and PSNR in dB."""
    return {"mse": list(mse), "psnr": [float(-10 * np.log10(each)) if each > 0 else None for each in mse]}


def of_chains(
    model: ServedModel,
    pixels: Pixels,
    states: Pixels,
    form: str,
    more: Mapping[str, Any],
    headers: Mapping[str, str],
) -> Response:
    """Markov chains: images of the last states ``(N, H, W, C)`` and of all states ``(N, S, H, W, C)``, uint8.

    As PNG a row for each chain, as npy the states, as JSON the images of the last states and of all states.
    """
    if form == JSON:
        further = {"state_images": [images.to_base64(chain) for chain in states]}
        return of_images(model, pixels, form, {**more, **further}, headers)
    if form == PNG:
        flat = states.reshape(-1, *states.shape[2:])
        return of_images(model, flat, form, more, headers, columns=states.shape[1])
    return of_images(model, states, form, more, headers)


def of_figures(
    model: ServedModel,
    figures: Mapping[str, NDArray[Any]],
    more: Mapping[str, Any],
    headers: Mapping[str, str],
) -> Response:
    """Figures of some rows, float32 ``(N,)`` by name, as JSON; ``more`` are further members."""
    rows = len(next(iter(figures.values())))
    return response(
        json_bytes({**_members(model, (rows,)), **more, "figures": figures}), model, JSON, headers
    )


def _members(model: ServedModel, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"model": model.manifest.name, "version": model.manifest.version, "shape": shape}


def _npy(array: NDArray[Any]) -> bytes | Parts:
    # A small part of a batch would keep all of it in memory for as long as its client reads.
    whole = array if array.base is None else array.base
    large = isinstance(whole, np.ndarray) and whole.nbytes < 2 * array.nbytes
    return npy.parts(array) if large and array.nbytes > _COPIED else npy.dump(array)


class _ModelResponse(Response):
    """A response with headers that are encoded already, most of them once for all requests."""

    def __init__(self, content: bytes | Parts, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self.status_code, self.background = 200, None
        self._parts = (content,) if isinstance(content, bytes) else content
        self.raw_headers = [(b"content-length", b"%d" % sum(map(len, self._parts))), *headers]

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        *others, last = self._parts
        for part in others:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": last})


def response(
    content: bytes | Parts, model: ServedModel, form: str, further: Mapping[str, str] | None = None
) -> Response:
    """A response of a model, with its name and version in headers."""
    headers = _headers(model.manifest.name, model.manifest.version, form)
    return _ModelResponse(content, [*headers, *_raw(further)] if further else headers)


@lru_cache(256)
def _headers(name: str, version: str, form: str) -> list[tuple[bytes, bytes]]:
    headers = {"Content-Type": form, "X-Tessera-Model": name, "X-Tessera-Version": version, "Vary": "Accept"}
    return _raw(headers)


def _raw(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
