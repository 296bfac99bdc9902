"""What images are built upon, and how pip gets what is installed in them."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from tests.deployment.files import DOCKERFILES, instructions
from tests.deployment.images.engines import Engine, Failed

STAND_IN = "tessera-base:debootstrap"
# As much as the public image has, as Debian has it.
_PACKAGES = "ca-certificates,python3,python3-pip,python3-venv,python-is-python3"
_LEFTOVERS = ("var/cache/apt", "var/lib/apt/lists", "var/log")
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def public() -> str:
    """The public image that the Dockerfiles name."""
    arguments = dict(
        rest.split("=", 1) for name, rest in instructions(DOCKERFILES[0]) if name == "ARG" and "=" in rest
    )
    return arguments["PYTHON_IMAGE"]


def base(engine: Engine) -> str:
    """The public image, if it can be had, or one made here from Debian's packages. Raises Failed."""
    try:
        engine.call("pull", public())
    except (Failed, subprocess.TimeoutExpired):
        return stand_in(engine)
    return public()


def stand_in(engine: Engine) -> str:
    """Debian with its own Python, instead of the public image. Raises Failed."""
    if (
        STAND_IN
        in engine.call("images", "--format={{.Repository}}:{{.Tag}}").replace("localhost/", "").split()
    ):
        return STAND_IN
    debootstrap = shutil.which("debootstrap")
    if debootstrap is None or os.geteuid() != 0:
        raise Failed("the public image cannot be had; instead of it, as root: apt-get install debootstrap")
    with tempfile.TemporaryDirectory() as scratch:
        root, archive = Path(scratch) / "root", Path(scratch) / "root.tar"
        command = [debootstrap, "--variant=minbase", f"--include={_PACKAGES}", "bookworm", str(root)]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            raise Failed(f"debootstrap failed:\n{made.stdout[-2000:]}")
        for name in _LEFTOVERS:
            shutil.rmtree(root / name)
            (root / name).mkdir(parents=True)
        shutil.make_archive(str(archive.with_suffix("")), "tar", root)
        engine.call("import", f"--change=ENV {_PATH}", str(archive), STAND_IN)
    return STAND_IN


def secrets(folder: Path) -> dict[str, Path]:
    """How pip reaches the registry from here, as build secrets; what lies in local folders is left out."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    found = re.findall(r"^(\S+?)\.([\w-]+)='(.*)'$", listed, re.MULTILINE)
    # The environment wins over files.
    values = {name: value for _, name, value in sorted(found, key=lambda each: each[0] == ":env:")}
    given: dict[str, Path] = {}
    lines = ["[global]"]
    for name in ("index-url", "extra-index-url", "trusted-host", "timeout", "default-timeout"):
        kept = [word for word in values.get(name, "").split() if urlsplit(word).scheme != "file"]
        lines += [f"{name} = {' '.join(kept)}"] if kept else []
    if "cert" in values:
        given["ca.pem"] = Path(values["cert"])
        lines.append("cert = /run/secrets/ca.pem")
    given["pip.conf"] = folder / "pip.conf"
    given["pip.conf"].write_text("\n".join(lines) + "\n")
    given["pip.conf"].chmod(0o600)
    return given
