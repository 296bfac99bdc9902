"""Runs pipelines of a model in the thread of the caller, by the rules of the service."""

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.batching.entries import joined
from service.codecs import images
from service.codecs.images import Fitted, ImageLimits
from service.contract.manifest import Role
from service.contract.runner import Arrays, BatchSlice, Results
from service.models import request_parameters
from service.models.model import ServedModel
from service.models.pipeline import Number, Pipeline
from service.tiling import tiles
from tessera.inputs import Options, ReadPictures

Array = NDArray[Any]


class Run(NamedTuple):
    """A pipeline of a model, with all that a call may set.

    The operations named in ``default_noise`` use the default noise of every input that has one.
    """

    model: ServedModel
    pipeline: Pipeline
    values: Mapping[str, Number]
    seed: int
    default_noise: Collection[str]
    options: Options

    @classmethod
    def of(
        cls, model: ServedModel, pipeline: Pipeline, options: Options, default_noise: Collection[str] = ()
    ) -> "Run":
        """A run with its parameters checked, and its seed drawn if noise is drawn and none was given.

        Raises UnknownName or BadValue.
        """
        values = request_parameters.parameters(pipeline, options.parameters, others=("label", "seed"))
        seed = options.seed
        if seed is None:
            draws = bool(pipeline.noises) and pipeline.draws(default_noise)
            seed = request_parameters.draw_seed() if draws else 0
        return cls(model, pipeline, values, seed, default_noise, options)

    def __call__(self, rows: int, given: Arrays) -> Results:
        """Run the pipeline on ``rows`` rows: the arrays given and those computed.

        Raises GraphFailed, and TooLarge for a picture that needs tiles where the model has none.
        """
        labels = request_parameters.labels(self.model.manifest, self.pipeline, self.options.label, rows)
        inputs = given if labels is None else {**given, Role.label: labels}
        if self.model.runs_whole(inputs):
            work = partial(
                self.model.run, self.pipeline, inputs, rows, self.values, self.seed, self.default_noise
            )
            return self.model.provider.call(work).with_given(inputs)
        tiled = tiles.run(
            _Unqueued(), self.model, self.pipeline, inputs, rows, self.values, self.default_noise
        )
        # In a thread of its own: the caller, such as a notebook, may have an event loop that runs.
        with ThreadPoolExecutor(1, "tiles") as thread:
            return thread.submit(asyncio.run, tiled).result()

    def decode_states(self, states: Array, label: Array | None) -> Array:
        """The images of the states of chains: ``(N, S, *codes.shape)`` to uint8 ``(N, S, H, W, C)``."""
        chains, passed = states.shape[:2]
        pipeline = self.model.pipeline("decode")
        values = {**pipeline.defaults, **self.values}
        given = {} if label is None else {Role.label: label.repeat(passed)}
        given[Role.codes] = states.reshape(-1, *states.shape[2:])
        # The noise of the decoder is that of the chain, so that the last state has the image of the sample.
        items = [item for item in range(chains) for _ in range(passed)]
        step = self.model.batch_rows(pipeline, given, values)
        slices = [
            BatchSlice(
                {role: array[start : start + step] for role, array in given.items()},
                items[start : start + step],
                self.seed,
            )
            for start in range(0, len(items), step)
        ]
        run = partial(_in_batches, self.model, pipeline, slices, values)
        decoded: Array = self.model.provider.call(run)
        return decoded.reshape(chains, passed, *decoded.shape[1:])


def fitted(pictures: ReadPictures, model: ServedModel, limits: ImageLimits, *, resize: bool = True) -> Fitted:
    """Pictures fitted to a model. Raises as ``images.from_files`` and ``images.from_array``."""
    spec = model.manifest.image
    if pictures.pixels is not None:
        return images.from_array(pictures.pixels, spec, limits, resize=resize)
    return images.from_files(pictures.files, spec, limits, resize=resize)


def finite_figures(results: Results) -> dict[str, Array]:
    """The figures by name; NaN where one is no finite number, which JSON does not have."""
    return {
        name: np.where(np.isfinite(each), each, np.float32(np.nan)) for name, each in results.figures.items()
    }


def _in_batches(
    model: ServedModel, pipeline: Pipeline, slices: Sequence[BatchSlice], values: Mapping[str, Number]
) -> Array:
    results = [model.run_batch(pipeline, [each], values)[0] for each in slices]
    return joined(results).arrays[Role.images]


class _Unqueued:
    """Runs the strips of a large picture one after the other."""

    async def run(
        self,
        model: ServedModel,
        pipeline: Pipeline,
        given: Arrays,
        rows: int,
        values: Mapping[str, Number],
        seed: int = 0,
        default_noise: Collection[str] = (),
        items: Sequence[int] | None = None,  # noqa: ARG002 - of the protocol; tiles draw no noise
        *,
        reserved: bool = False,  # noqa: ARG002 - as above; there is no queue
    ) -> Results:
        work = partial(model.run, pipeline, given, rows, values, seed, default_noise)
        return await asyncio.to_thread(model.provider.call, work)

    @contextmanager
    def reservation(self, model: ServedModel, pipeline: Pipeline, nbytes: int) -> Iterator[None]:  # noqa: ARG002
        yield
