"""A served model: its bundle, its sessions, and how they run.

The service knows roles, not architectures. An *operation* of the manifest is one graph whose inputs are
filled by role and whose outputs are returned by role. A *pipeline* is several operations in order: each takes
by role what an earlier one made. Every request runs one pipeline:

    request            pipeline
    encode             encode
    decode             decode
    reconstruct        reconstruct if the model has it, else encode, decode
    sample/METHOD      sample/METHOD, and decode if that gives no images
    score              score

A method that takes codes and a mask samples the codes where the mask is True and keeps the others. Without
codes and mask it samples all codes. A method that takes codes and a target interpolates between the two.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from service.batching.entries import joined
from service.contract.manifest import Manifest, Role
from service.contract.measures import Precision
from service.contract.runner import Arrays, BatchSlice, Results, Runner, WrongOutput
from service.errors import GraphFailed, UnknownOperation, did_you_mean, quoted, unknown
from service.models.bundle import Bundle
from service.models.pipeline import SAMPLE, Number, Pipeline
from service.runtime.beside_cpu import BesideCpu
from service.runtime.providers import Provider
from service.runtime.session import Session

DEFAULT_METHOD = "prior"


@dataclass(frozen=True)
class BatchLimits:
    """The largest batch of a model: at most ``rows`` rows and ``pixels`` pixels of images.

    An image of more than ``tile_pixels`` runs in tiles of at most so many.
    """

    rows: int = 64
    pixels: int = 2**20
    tile_pixels: int = 2**19

    @classmethod
    def on(cls, provider: Provider, rows: int = 0, pixels: int = 0, tile_pixels: int = 0) -> "BatchLimits":
        """The limits for a provider; 0 stands for the provider's default.

        On a CPU, two images of 128x128 in a batch take as long per image as one, and larger batches are
        slower and take more memory. Images that are drawn pixel by pixel are the exception: in a batch of 128
        a row takes 0.83 of its time in a batch of 41. On a GPU, one batch of 512 images of 28x28 takes a
        third of the time of eight batches of 64.
        """
        defaults = (128, 2**15, 2**19) if provider.name == "cpu" else (512, 2**20, 2**20)
        return cls(rows or defaults[0], pixels or defaults[1], tile_pixels or defaults[2])


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A model that is served: ``sessions`` holds the session of each graph, by its file.

    ``precision`` is the one in which it runs. If it is not that of the provider, ``precision_reason`` says
    why.
    """

    bundle: Bundle
    provider: Provider
    sessions: Mapping[str, Session | BesideCpu]
    batch_limits: BatchLimits
    precision: Precision = "32"
    precision_reason: str | None = None
    _pipelines: dict[tuple[str, ...], Pipeline] = field(default_factory=dict, init=False, repr=False)

    @property
    def manifest(self) -> Manifest:
        """The manifest of the bundle."""
        return self.bundle.manifest

    @property
    def methods(self) -> list[str]:
        """The sampling methods, sorted."""
        names = self.manifest.operations
        return sorted(name.removeprefix(SAMPLE) for name in names if name.startswith(SAMPLE))

    def methods_that_take(self, role: Role) -> list[str]:
        """The sampling methods with an input of a role: ``mask`` to complete, ``target`` to interpolate."""
        operations = self.manifest.operations
        return [method for method in self.methods if operations[SAMPLE + method].takes(role)]

    def pipeline(self, verb: str) -> Pipeline:
        """The pipeline of a verb: ``reconstruct``, or the name of an operation.

        Raises UnknownOperation if the model lacks one of its operations.
        """
        operations = self.manifest.operations
        if verb == "reconstruct" and verb not in operations:
            return self.pipeline_of("encode", "decode")
        if verb in operations and verb.startswith(SAMPLE) and not operations[verb].gives(Role.images):
            return self.pipeline_of(verb, "decode")
        return self.pipeline_of(verb)

    def pipeline_of(self, *names: str) -> Pipeline:
        """The pipeline of these operations. Raises UnknownOperation if the model lacks one of them."""
        pipeline = self._pipelines.get(names)
        if pipeline is None:
            operations = self.manifest.operations
            for name in names:
                if name not in operations:
                    known = sorted(operations)
                    hint = f"model {self.manifest.name!r} has {', '.join(known)}"
                    raise unknown("operation ", name, known, UnknownOperation, hint)
            pipeline = self._pipelines[names] = Pipeline({name: operations[name] for name in names})
        return pipeline

    def sampler(self, method: str | None) -> str:
        """The operation of a sampling method: ``sample/METHOD``.

        Without a method it is ``prior`` if the model has it, else the first in its manifest. Raises
        UnknownOperation.
        """
        methods = self.methods
        if method is None and methods:
            if DEFAULT_METHOD in methods:
                return SAMPLE + DEFAULT_METHOD
            return next(name for name in self.manifest.operations if name.startswith(SAMPLE))
        if method is not None and method in methods:
            return SAMPLE + method
        if method is None or not methods:
            detail = f"model {self.manifest.name!r} cannot sample"
        else:
            detail = (
                f"model {self.manifest.name!r} has no method {quoted(method)}{did_you_mean(method, methods)}"
            )
        raise UnknownOperation(detail, given=method, allowed=methods)

    def run(
        self,
        pipeline: Pipeline,
        given: Arrays,
        rows: int,
        values: Mapping[str, Number],
        seed: int = 0,
        default_noise: Collection[str] = (),
    ) -> Results:
        """Run a pipeline on the rows of one request, in as many batches as its size needs.

        The results do not depend on the number of batches. ``given`` holds arrays by role with ``rows`` rows
        each, ``values`` every parameter, ``seed`` the seed of the noise. The operations named in
        ``default_noise`` use the default noise of every input that has one. Raises GraphFailed.
        """
        step = self.batch_rows(pipeline, given, values)
        ranges = (range(start, min(start + step, rows)) for start in range(0, rows, step))
        slices = [BatchSlice.of(given, items, seed) for items in ranges]
        return joined([self.run_batch(pipeline, [each], values, default_noise)[0] for each in slices])

    def run_batch(
        self,
        pipeline: Pipeline,
        slices: Sequence[BatchSlice],
        values: Mapping[str, Number],
        default_noise: Collection[str] = (),
    ) -> list[Results]:
        """Run a pipeline once on slices of several requests with equal parameters: the results of each slice.

        Raises GraphFailed, for the whole batch.
        """
        runner = Runner(self.manifest.operations, self.manifest.codes, self.sessions)
        try:
            return runner.run(pipeline.names, slices, values, default_noise)
        except WrongOutput as error:
            raise GraphFailed(str(error)) from error

    def batch_rows(self, pipeline: Pipeline, given: Arrays, values: Mapping[str, Number]) -> int:
        """How many rows such as these may share a batch of a pipeline: 1 or more."""
        area, limits = self.image_pixels(given), self.batch_limits
        pixels = pipeline.pixels(area, values) if pipeline.noises else area
        return max(1, min(limits.rows, limits.pixels // pixels))

    def is_large(self, given: Arrays) -> bool:
        """Whether one row such as these has more pixels than a batch may have."""
        return self.image_pixels(given) > self.batch_limits.pixels

    @property
    def whole_pixels(self) -> int:
        """The pixels of the largest image that runs in one piece; one of the native size always does."""
        image = self.manifest.image
        return max(self.batch_limits.tile_pixels, image.height * image.width)

    def runs_whole(self, given: Arrays) -> bool:
        """Whether rows such as these run in one piece; larger ones run in tiles (``service.tiling``)."""
        return self.image_pixels(given) <= self.whole_pixels

    def image_pixels(self, given: Arrays) -> int:
        """The pixels of the image of one row."""
        image, stride = self.manifest.image, self.manifest.codes.stride
        if Role.images in given:
            return math.prod(given[Role.images].shape[1:3])
        if Role.codes in given and stride is not None:
            return math.prod(given[Role.codes].shape[1:3]) * stride * stride
        return image.height * image.width
