"""BentoML: a batchable API in worker processes.

Its batches are made of lists, so each body becomes a list of one. Its documentation sends pictures as forms,
which take longer to read.
"""

from typing import Annotated, Any

import bentoml
import numpy as np
from bentoml.validators import ContentType
from pydantic import BeforeValidator, WithJsonSchema

from tests.benchmarks.serving.work import JSON, PATH, Config, Encoder

_config = Config.read()
_settings = _config.settings

Body = Annotated[
    list[bytes],
    BeforeValidator(lambda body: [body]),
    WithJsonSchema({"type": "string", "format": "binary"}),
]
Grids = Annotated[list[Any], ContentType(JSON)]


@bentoml.service(
    workers=_settings["workers"],
    metrics={"enabled": _settings["metrics"]},
    logging={"access": {"enabled": False}},
)
class Encoding:
    """PNG to codes: a list of one grid."""

    def __init__(self) -> None:
        self.encoder = Encoder(_config.graph)

    @bentoml.api(
        route=PATH,
        batchable=True,
        max_batch_size=_settings["max_batch_size"],
        max_latency_ms=_settings["max_latency_ms"],
    )
    async def encode(self, pngs: Body, /) -> Grids:
        codes = self.encoder(np.concatenate([self.encoder.pixels(png) for png in pngs]))
        return list(codes.tolist())
