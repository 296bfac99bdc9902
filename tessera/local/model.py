"""A model in this process: pictures and codes checked as the service checks them, and run on ONNX Runtime."""

from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from os.path import normpath
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from service.codecs import code_arrays
from service.codecs.images import Fitted, ImageLimits, cropped, squared_error
from service.contract.manifest import Manifest, Role
from service.contract.measures import Precision
from service.errors import BadValue, MissingFile, ModelRefused, quoted
from service.models import request_parameters
from service.models.bundle import read_bundle
from service.models.hub import local_folder
from service.models.model import BatchLimits, ServedModel
from service.models.validation import load_model
from service.runtime.providers import choose_provider
from tessera.arguments import checked_size, is_whole
from tessera.inputs import (
    Box,
    Labels,
    Pictures,
    completion_start,
    interpolation_start,
    options,
    read_codes,
    read_pictures,
)
from tessera.interface import Size, Tokenizer
from tessera.local.run import Run, finite_figures, fitted
from tessera.local.sampling import Sampling
from tessera.results import Codes, Images, ModelInfo, ModelSummary, Reconstruction, Samples, Scores

# Rows and pixels of a call: nobody waits for another client here.
_ANY = 2**62
_PROVIDERS = ("auto", "cpu", "cuda")
# What the manifest declares for ``ModelInfo``.
_DECLARED = ModelInfo.model_fields.keys() & Manifest.model_fields.keys() - {"codebook"}


class Model(Tokenizer):
    """A model in this process. Several threads may use it."""

    def __init__(self, served: ServedModel, max_pixels: int) -> None:
        self._served = served
        self._limits = ImageLimits(max_pixels, _ANY, _ANY, max_pixels)
        self._sampling = Sampling(served, self._limits)

    def __repr__(self) -> str:
        manifest = self._served.manifest
        return f"<Model {manifest.name} {manifest.version} on {self._served.provider.name}>"

    def encode(
        self,
        pictures: Pictures,
        *,
        resize: bool = True,
        label: Labels | None = None,
        seed: int | None = None,
        **parameters: float,
    ) -> Codes:
        run = self._run("encode", label, seed, parameters)
        fitted = self._fitted(pictures, resize)
        return run(len(fitted.pixels), {Role.images: fitted.pixels}).arrays[Role.codes]

    def decode(
        self,
        codes: ArrayLike,
        *,
        size: Size | None = None,
        label: Labels | None = None,
        seed: int | None = None,
        **parameters: float,
    ) -> Images:
        run = self._run("decode", label, seed, parameters)
        manifest = self._served.manifest
        array = code_arrays.from_typed_array(read_codes(codes), manifest, self._limits)
        request_parameters.check_levels(parameters, run.values, array, manifest)
        if size is not None:
            size = checked_size(size)
            code_arrays.check_unpadded(size, array, manifest)
        return cropped(run(len(array), {Role.codes: array}).arrays[Role.images], size)

    def reconstruct(
        self,
        pictures: Pictures,
        *,
        resize: bool = True,
        label: Labels | None = None,
        seed: int | None = None,
        **parameters: float,
    ) -> Reconstruction:
        run = self._run("reconstruct", label, seed, parameters)
        fitted = self._fitted(pictures, resize)
        made = run(len(fitted.pixels), {Role.images: fitted.pixels}).arrays[Role.images]
        originals, reconstructions = fitted.crop(fitted.pixels), fitted.crop(made)
        squares = [squared_error(*each) for each in zip(originals, reconstructions, strict=True)]
        mse = np.array(squares) / (255**2 * originals[0].size)
        psnr = [-10 * np.log10(each) if each > 0 else np.inf for each in mse]
        return Reconstruction(reconstructions, mse, np.array(psnr))

    def score(
        self,
        pictures: Pictures,
        *,
        resize: bool = True,
        label: Labels | None = None,
        seed: int | None = None,
        **parameters: float,
    ) -> Scores:
        pipeline = self._served.pipeline("score")
        run = Run.of(self._served, pipeline, options(label, seed, parameters))
        fitted = self._fitted(pictures, resize)
        results = run(len(fitted.pixels), {Role.images: fitted.pixels})
        return Scores(finite_figures(results), run.seed, dict(run.values))

    def sample(
        self,
        n: int | None = None,
        *,
        method: str | None = None,
        label: Labels | None = None,
        seed: int | None = None,
        **parameters: float,
    ) -> Samples:
        given = options(label, seed, parameters)
        return self._sampling.drawn(method, n, given)

    def complete(
        self,
        pictures: Pictures | None = None,
        *,
        box: Box | Sequence[Box] | None = None,
        codes: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        n: int | None = None,
        method: str | None = None,
        label: Labels | None = None,
        seed: int | None = None,
        **parameters: float,
    ) -> Samples:
        given = options(label, seed, parameters)
        start = completion_start(pictures, box, codes, mask)
        return self._sampling.completed(method, n, given, start)

    def interpolate(
        self,
        pictures: Pictures | None = None,
        *,
        codes: ArrayLike | None = None,
        n: int | None = None,
        method: str | None = None,
        label: Labels | None = None,
        seed: int | None = None,
        **parameters: float,
    ) -> Samples:
        given = options(label, seed, parameters)
        return self._sampling.interpolated(method, n, given, interpolation_start(pictures, codes))

    def codebook(self) -> Codes:
        vectors = self._served.bundle.vectors
        if vectors is None:
            raise MissingFile(f"model {self._served.manifest.name!r} has no codebook")
        return vectors.copy()

    def preview(self) -> bytes:
        preview = self._served.bundle.preview
        if preview is None:
            raise MissingFile(f"model {self._served.manifest.name!r} has no preview")
        return preview

    def info(self) -> ModelInfo:
        manifest, provider = self._served.manifest, self._served.provider
        return ModelInfo(
            **{name: getattr(manifest, name) for name in _DECLARED},
            provider=provider.name,
            reason=provider.reason,
            precision=self._served.precision,
            precision_reason=self._served.precision_reason,
            codebook=None if manifest.codebook is None else manifest.codebook.shape,
        )

    def models(self) -> list[ModelSummary]:
        manifest = self._served.manifest
        summary = ModelSummary(
            name=manifest.name,
            version=manifest.version,
            kind=manifest.kind,
            default=True,
            image=manifest.image,
            codes=manifest.codes,
            operations=tuple(sorted(manifest.operations)),
            precision=self._served.precision,
            precisions=("32", *sorted(manifest.precisions)),
        )
        return [summary]

    def _run(self, verb: str, label: Labels | None, seed: int | None, parameters: Mapping[str, float]) -> Run:
        """The run of an operation; without a seed, with the default noise."""
        pipeline = self._served.pipeline(verb)
        default_noise = pipeline.names if seed is None else ()
        return Run.of(self._served, pipeline, options(label, seed, parameters), default_noise)

    def _fitted(self, pictures: Pictures, resize: bool) -> Fitted:
        return fitted(read_pictures(pictures), self._served, self._limits, resize=resize)


def loaded(
    source: str | PathLike[str],
    provider: Literal["auto", "cpu", "cuda"],
    threads: int,
    max_pixels: int,
    precision: Precision,
) -> Model:
    """The model of a source, as ``tessera.load``."""
    choices = {"provider": (provider, _PROVIDERS), "precision": (precision, get_args(Precision))}
    for name, (given, allowed) in choices.items():
        if given not in allowed:
            *others, last = map(repr, allowed)
            detail = f"{name} is {', '.join(others)} or {last}, not {quoted(given)}"
            raise BadValue(detail, given=given, allowed=allowed)
    if not is_whole(threads, 0):
        raise BadValue(f"threads is {quoted(threads)}; it must be a whole number, 0 or more", given=threads)
    # A folder must have the name of its model, which "." and ".." do not show.
    folder = Path(normpath(local_folder(fspath(source)).absolute()))
    if not folder.is_dir():
        raise ModelRefused(f"there is no folder {str(source)!r}; a model is the folder that was exported")
    chosen = choose_provider(provider, threads, captures=True, precision=precision)
    try:
        return Model(load_model(read_bundle(folder), chosen, BatchLimits.on(chosen)), max_pixels)
    except ModelRefused as error:
        raise ModelRefused(f"{source}: {error}") from error
