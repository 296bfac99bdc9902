"""A container of the service, tried: what it answers, how little it may do, and how it ends."""

import base64
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx

from tests.deployment.files import ROOT, services
from tests.deployment.images.engines import Engine, Failed

SEVEN = (ROOT / "tests" / "fixtures" / "seven.png").read_bytes()
PATIENCE = 180.0

# Run inside: who it is, what it may, and where it can write; an engine mounts what is below _ITS_OWN.
_INSIDE = """
import json, os
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
writable, names = [], [name for name in os.listdir("/") if name not in ("proc", "sys")]
for top in names:
    for folder, folders, files in os.walk("/" + top):
        writable += [path for path in [folder, *(os.path.join(folder, name) for name in files)]
                     if not os.path.islink(path) and os.access(path, os.W_OK)]
print(json.dumps({"user": os.getuid(), "group": os.getgid(), "writable": writable, **{
    name: status[name].strip() for name in ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp")}}))
"""
_ITS_OWN = re.compile(r"/dev/(shm|mqueue|null|zero|full|tty|random|urandom|ptmx|pts(/.*)?|console|fd/.*)$")


def flags(name: str, exported: Path, port: int) -> list[str]:
    """What the compose file says of a service, as flags of ``run``."""
    service = services()[name]
    given = [f"--cap-drop={each}" for each in service["cap_drop"]]
    given += [f"--security-opt={each.removesuffix(':true')}" for each in service["security_opt"]]
    given += [f"--tmpfs={each}" for each in service["tmpfs"]]
    # In the network of the host another may have the port of the metrics.
    variables = service["environment"] | {"TESSERA_PORT": str(port), "TESSERA_METRICS": "key"}
    given += [f"--env={variable}={_filled(str(value))}" for variable, value in variables.items()]
    given += [
        f"--volume={exported}:/exported:ro",
        f"--memory={_filled(service['mem_limit'])}",
        f"--pids-limit={service['pids_limit']}",
    ]
    return [*given, "--read-only", "--network=host"] if service["read_only"] else given


def calls(url: str, provider: str = "cpu") -> None:
    """Readiness, the models, and a picture to codes and back. Raises AssertionError."""
    with httpx.Client(base_url=url, trust_env=False, timeout=PATIENCE) as client:
        ready = client.get("/readyz").raise_for_status().json()
        assert ready["provider"] == provider, ready
        assert ready["refused"] == [], ready
        models = {model["name"] for model in client.get("/models").raise_for_status().json()["models"]}
        assert models == {path.name for path in (ROOT / "exported").iterdir()}, models
        for model in sorted(models):
            codes = client.post(
                f"/encode?model={model}", content=SEVEN, headers={"Content-Type": "image/png"}
            )
            decoded = client.post(
                "/decode", json=codes.raise_for_status().json(), headers={"Accept": "image/png"}
            )
            assert decoded.raise_for_status().content.startswith(b"\x89PNG"), model
        form = {"images": [base64.b64encode(SEVEN).decode()]}
        assert client.post("/reconstruct", json=form).raise_for_status().content.startswith(b"\x89PNG")


def version(url: str, model: str) -> str:
    """The version of a model that is served."""
    answer = httpx.get(f"{url}/models/{model}", trust_env=False, timeout=PATIENCE)
    return str(answer.raise_for_status().json()["version"])


def inside(engine: Engine, container: str, user: int) -> None:
    """Check the rights of a container and where it can write. Raises AssertionError."""
    status: dict[str, Any] = json.loads(engine.call("exec", container, "python", "-c", _INSIDE))
    assert (status["user"], status["group"]) == (user, user), status
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0, status
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2"), status
    elsewhere = [path for path in status["writable"] if not path.startswith("/tmp")]  # noqa: S108 - its
    assert [path for path in elsewhere if not _ITS_OWN.match(path)] == [], elsewhere


def until(ready: Callable[[], bool], what: str) -> None:
    """Wait until something is so. Raises Failed if it does not come to be."""
    deadline = time.monotonic() + PATIENCE
    while not ready():
        if time.monotonic() > deadline:
            raise Failed(f"it takes longer than {PATIENCE:g} s until {what}")
        time.sleep(0.2)


def answers(url: str) -> bool:
    """Whether a service is there and ready."""
    try:
        return httpx.get(f"{url}/readyz", trust_env=False).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def ended(engine: Engine, container: str) -> int:
    """The exit code of a container that SIGTERM ends."""
    engine.call("kill", "--signal=TERM", container)
    return int(engine.call("wait", container))


def _filled(text: str) -> str:
    """A value of the compose file with its defaults for variables that are not set."""
    return re.sub(r"\$\{\w+:?-([^}]*)\}", r"\1", text)
