"""The calls of the API: what is sent, and what its response means."""

import math
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import httpx2
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel

from service.codecs import npy
from service.contract.manifest import Role
from service.errors import ModelNotChosen, UnknownModel, unknown
from service.models.request_parameters import ENDS, POINTS, draw_seed
from tessera.arguments import at_least, checked_size, completion_rows, interpolating_method, method_that_takes
from tessera.inputs import Options, Pictures, ReadPictures, Start, read_codes, read_pictures
from tessera.interface import Size
from tessera.remote import bodies
from tessera.remote.bodies import JSON, NPY, PNG
from tessera.remote.exchange import Call, Query, Request
from tessera.remote.parts import Limits, in_parts
from tessera.results import (
    Codes,
    Images,
    ModelInfo,
    ModelSummary,
    Reconstruction,
    Samples,
    Scores,
    joined,
    joined_figures,
    joined_reconstructions,
    joined_samples,
)


class _ModelList(BaseModel):
    models: tuple[ModelSummary, ...]
    limits: Limits = Limits()


class Calls:
    """The calls for one model of a service. Each is a generator of requests (``tessera.remote.exchange``)."""

    def __init__(self, model: str | None, version: str | None) -> None:
        self.model = model
        self._names = {name: each for name, each in (("model", model), ("version", version)) if each}
        # What the service says of its limits and models, once it is needed. It may be older than a reload,
        # so no method and no name of the default model is taken from it.
        self._list: _ModelList | None = None

    def encode(self, pictures: Pictures, resize: bool, options: Options) -> Call[Codes]:
        """The codes of pictures."""
        parts = yield from self._of_pictures("/encode", read_pictures(pictures), resize, options, NPY)
        return joined([bodies.array(response) for response in parts])

    def decode(self, codes: ArrayLike, size: Size | None, options: Options) -> Call[Images]:
        """The images of codes."""
        array = read_codes(codes)
        rows = yield from self._rows(array)
        most = 1 if rows == 1 else (yield from self._most(array.nbytes // rows, array.shape[1:]))
        cut = () if size is None else (("size", "{}x{}".format(*checked_size(size))),)

        def ask(start: int, stop: int) -> Call[Images]:
            part = array if stop - start == rows else array[start:stop]
            query = self._query(options, start, stop, rows, cut)
            return bodies.array((yield Request("POST", "/decode", query, npy.dump(part), NPY, NPY)))

        return joined((yield from in_parts(rows, most, ask)))

    def reconstruct(self, pictures: Pictures, resize: bool, options: Options) -> Call[Reconstruction]:
        """The reconstructions of pictures."""
        parts = yield from self._of_pictures("/reconstruct", read_pictures(pictures), resize, options, JSON)
        return joined_reconstructions([bodies.reconstruction(response) for response in parts])

    def score(self, pictures: Pictures, resize: bool, options: Options) -> Call[Scores]:
        """The figures of pictures."""
        read = read_pictures(pictures)
        parts = yield from self._of_pictures("/score", read, resize, _seeded(options, len(read)), JSON)
        scores = [bodies.scores(response) for response in parts]
        return Scores(joined_figures([each.figures for each in scores]), scores[0].seed, scores[0].parameters)

    def sample(self, n: int | None, method: str | None, options: Options) -> Call[Samples]:
        """Samples from noise."""
        rows = at_least(n, 1, options.label_count)
        document = {"method": method, "n": rows}
        return (yield from self._samples(document, Start(), rows, 1, _seeded(options, rows)))

    def complete(self, start: Start, n: int | None, method: str | None, options: Options) -> Call[Samples]:
        """Completions of pictures or codes."""
        given = len(start.pictures) if start.pictures is not None else (yield from self._rows(start.codes))
        rows = completion_rows(n, given)
        document = {"method": method or (yield from self._method_that_takes(Role.mask)), "n": rows}
        return (yield from self._samples(document, start, rows, given, _seeded(options, rows)))

    def interpolate(self, start: Start, n: int | None, method: str | None, options: Options) -> Call[Samples]:
        """Points between two pictures or codes; they cannot be sent in parts."""
        if method is None:
            info = yield from self.info()
            method = interpolating_method(info.name, info.operations)
        document = {"method": method, "n": at_least(n, ENDS, POINTS), "label": options.label}
        return bodies.samples((yield self._sampling(document, start, options)))

    def codebook(self) -> Call[Codes]:
        """The code vectors."""
        name = yield from self._name()
        return bodies.array((yield Request("GET", f"/models/{name}/codebook", accept=NPY)))

    def preview(self) -> Call[bytes]:
        """The preview image, a PNG."""
        name = yield from self._name()
        response: httpx2.Response = yield Request("GET", f"/models/{name}/preview.png", accept=PNG)
        return response.content

    def info(self) -> Call[ModelInfo]:
        """The model in full."""
        name = yield from self._name()
        return bodies.document(ModelInfo, (yield Request("GET", f"/models/{name}")))

    def models(self) -> Call[list[ModelSummary]]:
        """The models of the service."""
        self._list = None
        return list((yield from self._listed()).models)

    def _of_pictures(
        self, path: str, read: ReadPictures, resize: bool, options: Options, accept: str
    ) -> Call[list[httpx2.Response]]:
        """The responses to the parts of a batch of pictures."""
        rows = len(read)
        shape = None if resize or read.pixels is None else read.pixels.shape[1:3]
        most = 1 if rows == 1 else (yield from self._most(read.nbytes, pixels=shape))
        more = () if resize else (("resize", "false"),)

        def ask(start: int, stop: int) -> Call[httpx2.Response]:
            part = read if stop - start == rows else read.rows(start, stop)
            query = self._query(options, start, stop, rows, more)
            response: httpx2.Response = yield bodies.of_pictures(path, query, part, accept)
            return response

        return (yield from in_parts(rows, most, ask))

    def _samples(
        self, document: dict[str, Any], start: Start, rows: int, given: int, options: Options
    ) -> Call[Samples]:
        """The samples of the parts of a batch; of ``given`` rows, if it is not one, each has one."""
        most = 1 if rows == 1 else (yield from self._most(start.nbytes if given > 1 else 0))

        def ask(first: int, stop: int) -> Call[Samples]:
            part = {
                **document,
                "n": stop - first,
                "label": options.labels(first, stop, rows),
                "first": first or None,
            }
            start_of_part = start if given == 1 else start.rows(first, stop)
            return bodies.samples((yield self._sampling(part, start_of_part, options)))

        return joined_samples((yield from in_parts(rows, most, ask)))

    def _sampling(self, document: dict[str, Any], start: Start, options: Options) -> Request:
        """The request of a sampler: JSON, or, with pictures, a query and the pictures."""
        whole = {**self._names, **document, "seed": options.seed}
        if start.pictures is None:
            codes = {"codes": start.codes, "mask": start.mask, "parameters": dict(options.parameters)}
            return bodies.of_document("/sample", whole | codes)
        whole["box"] = [",".join(map(str, box)) for box in start.boxes]
        return bodies.of_pictures("/sample", _pairs(whole | dict(options.parameters)), start.pictures)

    def _query(self, options: Options, start: int, stop: int, rows: int, more: Query) -> Query:
        """The query of the rows ``start`` to ``stop`` of a call."""
        label, seed, parameters = options
        if not more and label is None and seed is None and not parameters and not start:
            return tuple(self._names.items())
        return (
            *_pairs(
                {
                    **self._names,
                    "label": options.labels(start, stop, rows),
                    "seed": seed,
                    "first": start or None,
                    **parameters,
                }
            ),
            *more,
        )

    def _rows(self, codes: NDArray[Any] | None) -> Call[int]:
        """How many rows codes have; one row may lack its batch axis."""
        if codes is None or codes.ndim == 0 or len(codes) <= 1:
            return 1
        summary = yield from self._summary()
        return 1 if codes.ndim == len(summary.codes.shape) else len(codes)

    def _most(
        self, nbytes: int, grid: Sequence[int] | None = None, pixels: Sequence[int] | None = None
    ) -> Call[int]:
        """How many rows of ``nbytes`` each one request may have.

        Their images have the size of the model, of a ``grid`` of codes, or of ``pixels``: height and width.
        """
        summary = yield from self._summary()
        image, stride = summary.image, summary.codes.stride
        area = math.prod(pixels or (image.height, image.width))
        if grid is not None and stride is not None:
            area = math.prod(grid[:2]) * stride**2
        return (yield from self._listed()).limits.rows(area, nbytes)

    def _method_that_takes(self, role: Role) -> Call[str | None]:
        info = yield from self.info()
        return method_that_takes(info.operations, role)

    def _name(self) -> Call[str]:
        """The name of the model, as a path has it."""
        if self.model is None:
            self._list = None
        return quote(self.model or (yield from self._summary()).name, safe="")

    def _summary(self) -> Call[ModelSummary]:
        """The model in the list of the service. Raises UnknownModel, or ModelNotChosen without a default."""
        listed = yield from self._listed()
        names = [each.name for each in listed.models]
        for each in listed.models:
            if each.name == self.model or (self.model is None and each.default):
                return each
        # A reload may bring it: the next call asks again.
        self._list = None
        if self.model:
            raise unknown("model ", self.model, names, UnknownModel)
        detail = f"the service has no default model; choose one with model=: {', '.join(names)}"
        raise ModelNotChosen(detail, allowed=names)

    def _listed(self) -> Call[_ModelList]:
        listed = self._list
        if listed is None:
            listed = self._list = bodies.document(_ModelList, (yield Request("GET", "/models")))
        return listed


def _seeded(options: Options, rows: int) -> Options:
    """The options with a seed if there are several rows, because the parts of a batch must have the same."""
    return options if rows == 1 or options.seed is not None else options._replace(seed=draw_seed())


def _pairs(given: dict[str, Any]) -> Query:
    """Names and values as a query has them; a list is a repeated name."""
    return tuple(
        (name, str(each))
        for name, value in given.items()
        if value is not None
        for each in (value if isinstance(value, list) else [value])
    )
