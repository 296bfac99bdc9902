"""The log-variance of a Gaussian encoder, which its graph does not give: it gives mean + deviation * noise.

Without a seed the noise is 0, and the codes are the mean. A second run, with equal noise in all dimensions,
gives codes that are further by that many deviations.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bulk import BulkError
from service.contract.manifest import Input, Manifest, Operation, Role
from service.contract.operations import CODES_AXES
from service.contract.runner import BatchSlice, Runner
from service.models.model import ServedModel

ENCODE = "encode"
# Large, so that little is lost where the deviation is added to a mean that is larger.
_NOISE = 1024


class LogVariance:
    """Gives the log-variance of a model's codes, of their shape, for images, uint8 ``(N, H, W, C)``."""

    def __init__(self, model: ServedModel) -> None:
        """Raises BulkError as ``check`` does."""
        manifest = model.manifest
        check(manifest)
        operation = manifest.operations[ENCODE]
        self._values: Mapping[str, float] = {
            name: parameter.default for name, parameter in operation.parameters.items()
        }
        self._runner = Runner({ENCODE: _noisy(operation)}, manifest.codes, model.sessions)

    def __call__(self, images: NDArray[np.uint8], means: NDArray[np.float32]) -> NDArray[np.float32]:
        """The log-variance where ``means`` are the codes without noise. Raises GraphFailed, BulkError."""
        given = [BatchSlice({Role.images: images}, range(len(images)), 0)]
        (results,) = self._runner.run([ENCODE], given, self._values, [ENCODE])
        deviations: NDArray[Any] = (results.arrays[Role.codes] - means) / np.float32(_NOISE)
        if not (deviations > 0).all():
            raise BulkError("the encoder does not add its noise to the mean, so it has no log-variance")
        return 2 * np.log(deviations)


def check(manifest: Manifest) -> None:
    """Raise BulkError for a model whose encoder has no normal noise of the shape of its codes."""
    noises = [item for item in manifest.operations[ENCODE].inputs if item.is_noise]
    if [(item.role, item.default) for item in noises] != [(Role.normal, 0)] or noises[0].shape not in (
        manifest.codes.shape,
        (CODES_AXES,),
    ):
        raise BulkError(
            f"the model {manifest.name} has no log-variance: its encoder is not Gaussian (--log-variance)"
        )


def _noisy(operation: Operation) -> Operation:
    """An encoder whose default noise is not 0."""

    def noisy(item: Input) -> Input:
        return item.model_copy(update={"default": _NOISE}) if item.is_noise else item

    return operation.model_copy(update={"inputs": tuple(map(noisy, operation.inputs))})
