"""A job: what one run does, in a form that can be given to another process."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from service.bulk import BulkError
from service.bulk.engines.local import Engine
from service.bulk.filesystem import Location
from service.bulk.options import Options
from service.bulk.plan import SCHEMA_VERSION, Plan, begin
from service.bulk.sources.base import Source, Unit
from service.bulk.sources.codes import StoredCodes
from service.bulk.sources.find import picture_source
from service.bulk.work import log_variance
from service.bulk.work.base import Work
from service.bulk.work.decode import Decode
from service.bulk.work.encode import Encode
from service.bulk.work.views import Preparation
from service.codecs.images import ImageLimits
from service.errors import ModelRefused, TesseraError, did_you_mean, quoted
from service.execution import execution
from service.models.bundle import Bundle, read_bundle
from service.models.model import ServedModel
from service.models.registry import find_bundles
from service.models.validation import load_model
from service.settings import Settings


@dataclass(frozen=True)
class Job:
    """One run: what it does with which model, from where to where, and how.

    ``settings`` are those of the service: the folder of models, the provider, the threads and the limits.
    ``decoders`` are threads that read and decode.
    """

    verb: Literal["encode", "decode"]
    model: str
    input: str
    output: str
    settings: Settings
    options: Options
    decoders: int

    @cached_property
    def bundle(self) -> Bundle:
        """The bundle of the model. Raises BulkError if there is none of this name, or it is refused."""
        where = f"{', '.join(self.settings.models)} (--models)"
        try:
            folders, refused = find_bundles(self.settings.models)
        except TesseraError as error:
            raise BulkError(f"{where}: {error}") from error
        if self.model not in folders:
            names = sorted(folders)
            near = did_you_mean(self.model, names) or f"; it has {', '.join(names) or 'none'}"
            reasons = "".join(f"; {each.name} is refused: {each.reason}" for each in refused)
            raise BulkError(f"there is no model {quoted(self.model)} in {where}{near}{reasons}")
        try:
            return read_bundle(folders[self.model])
        except ModelRefused as error:
            raise BulkError(f"the model {self.model} is refused: {error}") from error

    @cached_property
    def destination(self) -> Location:
        """Where the run writes. Raises BulkError if its filesystem is not installed."""
        return Location.of(self.output)

    @cached_property
    def source(self) -> Source:
        """What the run reads. Raises BulkError if there is nothing."""
        given = Location.of(self.input)
        if self.verb == "decode":
            return StoredCodes.of(given, self.bundle.manifest)
        return picture_source(given, self.options.columns)

    @cached_property
    def plan(self) -> Plan:
        """The plan, begun now or before. Raises BulkError if the output belongs to another run."""
        return begin(self.destination, self.options.format, self._manifest(), self._shards())

    def check(self) -> None:
        """Raise BulkError if there is no such model, input or filesystem."""
        _ = self.bundle, self.source, self.destination

    def engine(self) -> Engine:
        """What runs shards of the plan in this process; loads the model. Raises BulkError."""
        return Engine(self.plan, self.source, self._work(self._load()), self.decoders)

    def _shards(self) -> Iterator[list[Unit]]:
        # Only when the run begins: to go on, the input is not listed again.
        yield from self.source.shards(self.options.shard_size)

    def _load(self) -> ServedModel:
        provider, limits = execution(self.settings)
        try:
            model = load_model(self.bundle, provider, limits)
        except ModelRefused as error:
            raise BulkError(f"the model {self.model} is refused: {error}") from error
        if model.precision_reason is not None:
            # Codes of two precisions are not to be mixed in one output.
            raise BulkError(f"--precision {self.settings.precision}: {model.precision_reason}")
        return model

    def _work(self, model: ServedModel) -> Work:
        if self.verb == "decode":
            return Decode(model, png=self.options.format != "npy")
        settings, options = self.settings, self.options
        limits = ImageLimits(settings.max_pixels, 1, settings.max_total_pixels, settings.max_decoded_pixels)
        preparation = Preparation(model.manifest.image, limits, options.views, options.resize)
        return Encode(model, preparation, log_variance=options.log_variance)

    def _manifest(self) -> dict[str, Any]:
        """What the manifest of the output says of model, input and options."""
        manifest = self.bundle.manifest
        if self.verb not in manifest.operations:
            raise BulkError(
                f"the model {self.model} cannot {self.verb}; it has {', '.join(manifest.operations)}"
            )
        if self.options.log_variance:
            log_variance.check(manifest)
        codebook = None
        if manifest.codebook is not None:
            file = manifest.files[manifest.codebook.file]
            codebook = {"sha256": file.sha256, "shape": list(manifest.codebook.shape)}
        options, precision = self.options, self.settings.precision
        # Left out for 32, so that runs of versions without the setting can be resumed.
        further = {} if precision == "32" else {"precision": precision}
        columns = {name: value for name, value in vars(options.columns).items() if value is not None}
        reading = {
            "shard_size": options.shard_size,
            "views": list(options.views),
            "resize": options.resize,
            "log_variance": options.log_variance,
            "columns": columns,
        }
        return {
            "schema_version": SCHEMA_VERSION,
            "command": self.verb,
            "model": {
                "name": manifest.name,
                "version": manifest.version,
                "codes": manifest.codes.model_dump(mode="json"),
                "codebook": codebook,
                **further,
            },
            "input": Location.of(self.input).identity,
            "format": options.format,
            # A decode has the shards of its input.
            "options": reading if self.verb == "encode" else {},
        }
