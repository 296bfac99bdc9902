"""LitServe: an API whose requests are batched, in worker processes behind processes that speak HTTP."""

from typing import Annotated

import litserve
import numpy as np
from fastapi import Depends, Request, Response

from tests.benchmarks.serving.work import JSON, PATH, Codes, Config, Encoder, Pixels, as_json

_config = Config.read()


async def _body(request: Request) -> bytes:
    return await request.body()


class Encoding(litserve.LitAPI):
    """PNG to codes."""

    def setup(self, device: str) -> None:
        self.encoder = Encoder(_config.graph)

    def decode_request(self, request: Annotated[bytes, Depends(_body)]) -> Pixels:
        return self.encoder.pixels(request)[0]

    def batch(self, inputs: list[Pixels]) -> Pixels:
        return np.stack(inputs)

    def predict(self, x: Pixels) -> Codes:
        return self.encoder(x)

    def unbatch(self, output: Codes) -> list[Codes]:
        return list(output)

    def encode_response(self, output: Codes) -> Response:
        return Response(as_json(output[None]), media_type=JSON)


if __name__ == "__main__":
    settings = _config.settings
    api = Encoding(
        max_batch_size=settings["max_batch_size"], batch_timeout=settings["batch_timeout"], api_path=PATH
    )
    server = litserve.LitServer(
        api,
        accelerator="cpu",
        workers_per_device=settings["workers_per_device"],
        fast_queue=settings["fast_queue"],
    )
    server.run(
        host="127.0.0.1",
        port=_config.port,
        num_api_servers=settings["num_api_servers"],
        log_level="warning",
        generate_client_file=False,
    )
