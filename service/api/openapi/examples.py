"""Example requests that the served models answer, for the OpenAPI document.

Each names a model: the default model, or the first of the others if that one cannot do it. A class is given
by its index: no key is needed to read the document, so it holds no names of classes.
"""

import base64
import io
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from service.contract.manifest import Role
from service.models.model import DEFAULT_METHOD, ServedModel
from service.models.pipeline import SAMPLE
from service.models.registry import Registry
from service.models.signature import ENCODE, runs, signature

Body = dict[str, Any]
Bodies = dict[str, Body]
"""The JSON objects of requests, by the names of the examples."""

# Width and height of the pictures in pixels, and the ends of their strokes.
_SIZE = 28
_SEVEN, _ONE = ((7, 6), (20, 6), (12, 22)), ((14, 5), (14, 22))
_LOWER_HALF = [0, _SIZE // 2, _SIZE, _SIZE]
_SAMPLES, _POINTS = 4, 5
# From one discrete code to the next.
_STEP = 37


class Examples:
    """The examples for the models that a registry serves now. A request that no model can answer has none."""

    def __init__(self, registry: Registry) -> None:
        self._models = sorted(
            registry.models.values(), key=lambda each: each.manifest.name != registry.default
        )

    def images(self, verb: str) -> Bodies:
        """Bodies with an image, for the first model that has the operation, or else one that encodes."""
        model = self._first(lambda each: runs(each, verb)) or self._first(_encodes)
        return {} if model is None else {"an image": _for(model, image=_picture(_SEVEN))}

    def codes(self, verb: str) -> Bodies:
        """Bodies with codes, for an operation."""
        model = self._first(lambda each: runs(each, verb))
        return {} if model is None else {"codes": _for(model, codes=[_codes(model).tolist()])}

    def samples(self, _verb: str) -> Bodies:
        """Bodies for ``/sample``: of each method that draws, completions, an interpolation."""
        found: Bodies = {}
        for model in self._models:
            for method in sorted(model.methods, key=lambda each: each != DEFAULT_METHOD):
                if method not in model.methods_that_take(Role.target):
                    found.setdefault(method, _drawing(model, method))
        if completing := self._first(lambda each: each.methods_that_take(Role.mask)):
            found |= _completions(completing)
        if between := self._first(lambda each: each.methods_that_take(Role.target) and _encodes(each)):
            method, ends = between.methods_that_take(Role.target)[0], [_picture(_SEVEN), _picture(_ONE)]
            found["interpolate"] = _for(between, method=method, images=ends, n=_POINTS)
        return found

    def tensors(self, _verb: str) -> Bodies:
        """Bodies of the Open Inference Protocol, for the model that ``path_values`` names."""
        model = self._first(_encodes)
        if model is None:
            return {}
        image = {"shape": [1], "datatype": "BYTES", "data": [_picture(_SEVEN)]}
        needed = [tensor.name for tensor in signature(model, ENCODE).inputs if tensor.required]
        return {"an image": {"inputs": [{"name": name, **image} for name in needed]}}

    def path_values(self, path: str) -> dict[str, str]:
        """The values of the parameters of a path: the first model that has what the path returns."""
        has = _HAS.get(path.rpartition("/")[2], _encodes)
        model = self._first(has) or self._first(lambda _: True)
        return {} if model is None else {"name": model.manifest.name, "version": model.manifest.version}

    def _first(self, can: Callable[[ServedModel], object]) -> ServedModel | None:
        """The first model that ``can``, the default model before all others."""
        return next(filter(can, self._models), None)


def _encodes(model: ServedModel) -> bool:
    return runs(model, ENCODE)


# Whether a model has what a path returns, by the end of the path: the last two are those of diffusers.
_HAS: Mapping[str, Callable[[ServedModel], object]] = {
    "codebook": lambda model: model.bundle.codebook is not None,
    "preview.png": lambda model: model.bundle.preview is not None,
    "encode": lambda model: model.manifest.codes.continuous_grid,
    "decode": lambda model: model.manifest.codes.continuous_grid,
}


def _for(model: ServedModel, **members: Any) -> Body:
    return {"model": model.manifest.name, **members}


def _drawing(model: ServedModel, method: str) -> Body:
    pipeline = model.pipeline(SAMPLE + method)
    label = {} if pipeline.label is None else {"label": 0}
    return _for(model, method=method, n=_SAMPLES, seed=1, **label, parameters=dict(pipeline.defaults))


def _completions(model: ServedModel) -> Bodies:
    method, codes = model.methods_that_take(Role.mask)[0], _codes(model)
    mask = (np.arange(codes.size) >= codes.size // 2).astype(int).reshape(codes.shape)
    half = _for(model, method=method, codes=codes.tolist(), mask=mask.tolist(), n=_SAMPLES)
    found = {"complete codes": half}
    if _encodes(model):
        image = {"image": _picture(_SEVEN), "box": _LOWER_HALF}
        found["complete an image"] = _for(model, method=method, **image, n=_SAMPLES)
    return found


def _codes(model: ServedModel) -> NDArray[Any]:
    """Codes of one image, of the model's own shape."""
    codes = model.manifest.codes
    if codes.codebook_size is None:
        return np.zeros(codes.shape, np.float32)
    return (_STEP * np.arange(np.prod(codes.shape)) % codes.codebook_size).reshape(codes.shape)


@cache
def _picture(strokes: tuple[tuple[int, int], ...]) -> str:
    """A drawn digit: a PNG in base64. Every model takes it, made to fit."""
    image, file = Image.new("L", (_SIZE, _SIZE)), io.BytesIO()
    ImageDraw.Draw(image).line(strokes, fill=255, width=3, joint="curve")
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
