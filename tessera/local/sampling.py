"""Sampling, completion and interpolation in this process, by the rules of ``/sample``."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.codecs import code_arrays, masks
from service.codecs.images import ImageLimits
from service.contract.manifest import Role
from service.contract.runner import Results
from service.errors import BadValue
from service.models.model import ServedModel
from service.models.pipeline import SAMPLE
from service.models.request_parameters import (
    ENDS,
    POINTS,
    between,
    check_completes,
    check_own_shape,
    two_ends,
)
from tessera.arguments import at_least, completion_rows, interpolating_method, method_that_takes
from tessera.inputs import Options, Start
from tessera.local.run import Run, finite_figures, fitted
from tessera.results import Samples

Array = NDArray[Any]


class Sampling:
    """The samplers of a model."""

    def __init__(self, model: ServedModel, limits: ImageLimits) -> None:
        self._model, self._limits = model, limits

    def drawn(self, method: str | None, n: int | None, options: Options) -> Samples:
        """Samples from noise. Raises UnknownOperation, UnknownName or BadValue."""
        rows = at_least(n, 1, options.label_count)
        operation = self._model.sampler(method)
        if self._model.manifest.operations[operation].takes(Role.target):
            raise BadValue(
                f"method {operation.removeprefix(SAMPLE)!r} interpolates: give two rows of codes or two "
                f"images; neither were given"
            )
        run = Run.of(self._model, self._model.pipeline(operation), options)
        return _samples(run, run(rows, {}), operation)

    def completed(self, method: str | None, n: int | None, options: Options, start: Start) -> Samples:
        """Samples of what the boxes or the mask of the start cover. Raises as ``drawn``, and BadCodes."""
        model = self._model
        operation = model.sampler(method or method_that_takes(model.manifest.operations, Role.mask))
        check_completes(operation, model.manifest, model.methods_that_take(Role.mask))
        pipeline = model.pipeline(operation)
        if start.pictures is not None:
            pipeline = model.pipeline_of("encode", *pipeline.names)
        run = Run.of(model, pipeline, options, pipeline.names[: pipeline.names.index(operation)])
        kept = self._kept(start)
        given = len(kept[Role.mask])
        rows = completion_rows(n, given)
        kept = {role: array.repeat(rows // given, axis=0) for role, array in kept.items()}
        return _samples(run, run(rows, kept), operation)

    def interpolated(self, method: str | None, n: int | None, options: Options, start: Start) -> Samples:
        """Points from one end to the other. Raises as ``drawn``, and BadCodes."""
        model = self._model
        operations = model.manifest.operations
        operation = model.sampler(method or interpolating_method(model.manifest.name, operations))
        if not operations[operation].takes(Role.target):
            methods = model.methods_that_take(Role.target)
            able = f"methods that do are {', '.join(methods)}" if methods else "no method of this model does"
            name = operation.removeprefix(SAMPLE)
            detail = f"method {name!r} of {model.manifest.name!r} does not interpolate; {able}"
            raise BadValue(detail, given=name, allowed=methods)
        sampling = model.pipeline(operation)
        pipeline = sampling if start.pictures is None else model.pipeline_of("encode", *sampling.names)
        run = Run.of(model, pipeline, options, pipeline.names[: pipeline.names.index(operation)])
        rows = at_least(n, ENDS, POINTS)
        if start.pictures is not None:
            pixels = two_ends(fitted(start.pictures, model, self._limits).pixels, "images")
            encode = run._replace(pipeline=model.pipeline("encode"))
            ends = encode(ENDS, {Role.images: pixels}).arrays[Role.codes]
        else:
            ends = two_ends(self._codes(start.codes), "rows of codes")
        return _samples(run, run._replace(pipeline=sampling)(rows, between(ends, rows)), operation)

    def _kept(self, start: Start) -> dict[Role, Array]:
        """The images or the codes of a completion, and the mask of each row."""
        manifest = self._model.manifest
        if start.pictures is not None:
            found = fitted(start.pictures, self._model, self._limits)
            mask = masks.from_boxes(start.boxes, found.sizes, manifest)
            return {Role.images: found.pixels, Role.mask: mask}
        codes = self._codes(start.codes)
        check_own_shape(codes, manifest)
        return {Role.codes: codes, Role.mask: masks.from_json(start.mask or [], manifest, len(codes))}

    def _codes(self, codes: Array | None) -> Array:
        return code_arrays.from_typed_array(np.asarray(codes), self._model.manifest, self._limits)


def _samples(run: Run, results: Results, operation: str) -> Samples:
    arrays = results.arrays
    states, images = arrays.get(Role.states), None
    if states is not None and states.shape[1]:
        images = run.decode_states(states, arrays.get(Role.label))
    return Samples(
        images=arrays[Role.images],
        codes=arrays.get(Role.codes),
        labels=arrays.get(Role.label),
        mask=arrays.get(Role.mask),
        states=None if images is None else states,
        state_images=images,
        figures=finite_figures(results),
        method=operation.removeprefix(SAMPLE),
        seed=run.seed,
        parameters=dict(run.values),
    )
