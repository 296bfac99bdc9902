"""Decoding: codes to pictures."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.bulk import BulkError
from service.bulk.sinks import IMAGE, Value
from service.bulk.sources.base import Item
from service.bulk.work.base import Array, Input, batch_rows, run, run_tiles, tiled, together, whole_or_rows
from service.codecs import code_arrays
from service.codecs.images import to_png
from service.codecs.large.row_writer import CroppedRows, PngRows
from service.contract.manifest import Role, fits
from service.models.model import ServedModel
from service.tiling.rows import ArrayRows, RowSource

DECODE = "decode"


@dataclass(frozen=True)
class Decode:
    """Codes to ``image``, without the padding of the picture: with ``png`` a file, else uint8 ``(H, W, C)``.

    A PNG file is made at once, so that no more than the pictures of a batch are in memory as pixels.
    """

    model: ServedModel
    png: bool = True

    @property
    def chunk(self) -> int:
        return batch_rows(self.model, DECODE, Role.codes)

    @property
    def empty(self) -> dict[str, Array]:
        return {IMAGE: np.empty(self.model.manifest.row(Role.images)[1], np.uint8)}

    def prepare(self, item: Item) -> list[Input]:
        codes, manifest = item.read(), self.model.manifest
        dtype, shape = manifest.row(Role.codes, any_size=True)
        if isinstance(codes, bytes) or codes.dtype != dtype or not fits(codes.shape, shape):
            raise BulkError(f"these are no codes of the model, {dtype} {list(shape)}")
        size = manifest.codes.codebook_size
        if size is not None and not 0 <= codes.min() <= codes.max() < size:
            raise BulkError(f"the codes are {codes.min()} to {codes.max()}, and the codebook has {size}")
        if (padded := code_arrays.image_size(codes.shape, manifest)) is None:
            raise BulkError(f"the model takes no image of a grid of {list(codes.shape)} codes")
        if item.unpadded is not None:
            code_arrays.check_unpadded(item.unpadded, codes[None], manifest)
        height, width = item.unpadded or padded
        return [Input(item.view, height, width, whole_or_rows(self.model, DECODE, Role.codes, codes))]

    def run(self, inputs: Sequence[Input]) -> list[dict[str, Value]]:
        codes = together(inputs)
        if not isinstance(codes, np.ndarray):
            return [{IMAGE: self._in_tiles(codes, inputs[0].height, inputs[0].width)}]
        images = run(self.model, DECODE, Role.codes, codes).arrays[Role.images]
        cropped = [image[: each.height, : each.width] for image, each in zip(images, inputs, strict=True)]
        return [{IMAGE: to_png(image) if self.png else image} for image in cropped]

    def _in_tiles(self, rows: RowSource, height: int, width: int) -> Value:
        operation, channels = tiled(self.model, DECODE, Role.codes, rows), self.model.manifest.image.channels
        if not self.png:
            image = np.empty((height, width, channels), np.uint8)
            run_tiles(self.model, operation, rows, CroppedRows(ArrayRows(image), height, width))
            return image
        file = io.BytesIO()
        png = PngRows(file, height, width, channels)
        run_tiles(self.model, operation, rows, CroppedRows(png, height, width))
        png.close()
        return file.getvalue()
