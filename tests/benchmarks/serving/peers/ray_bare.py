"""The most that Ray Serve's proxy leaves room for: the app of ``bare`` on its replicas."""

import sys
from typing import Any

from tests.benchmarks.serving.work import Config
from tests.fixtures.cluster_service import run


class Bare:
    """Answers prepared bytes."""

    def __serve_build_asgi_app__(self) -> Any:
        from tests.benchmarks.serving.peers.bare import app

        return app


def _deployment() -> Any:
    from ray import serve

    config = Config.read()
    quiet = {"enable_access_log": False, "log_level": "WARNING"}
    most = config.settings["max_ongoing_requests"]
    return serve.deployment(serve.ingress()(Bare), max_ongoing_requests=most, logging_config=quiet)


if __name__ == "__main__":
    config = Config.read()
    sys.exit(run(_deployment, config.port, config.settings["num_replicas"]))
