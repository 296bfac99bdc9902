"""Decoding: codes to pictures."""

from dataclasses import dataclass

import numpy as np

from service.bulk import BulkError
from service.bulk.sinks import IMAGE
from service.bulk.sources.base import Item
from service.bulk.work.base import Array, Input, batch_rows, run
from service.contract.manifest import Role, fits
from service.models.model import ServedModel


@dataclass(frozen=True)
class Decode:
    """Codes to ``image``, uint8 ``(H, W, C)``."""

    model: ServedModel

    @property
    def chunk(self) -> int:
        return batch_rows(self.model, "decode", Role.codes)

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
        stride, height, width = manifest.codes.stride, manifest.image.height, manifest.image.width
        if stride is not None:
            height, width = (stride * axis for axis in codes.shape[:2])
        return [Input(item.view, height, width, codes)]

    def run(self, arrays: Array) -> dict[str, Array]:
        return {IMAGE: run(self.model, "decode", Role.codes, arrays, Role.images)}
