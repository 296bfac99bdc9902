"""What builds and runs images: Docker, or Podman, which builds with Buildah and takes the same flags."""

import os
import resource
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.deployment.files import COMPOSE, ROOT

# Of a build, with all that it downloads.
PATIENCE = 3600.0


class Failed(Exception):
    """A command that did not end well, with what it said last."""


class Engine:
    """Docker if ``name`` says so, else Podman. Raises Failed from all that it does."""

    def __init__(self, name: str) -> None:
        program = shutil.which(name)
        if program is None:
            raise Failed(f"there is no {name}")
        self.name, self._program = name, program

    @property
    def is_docker(self) -> bool:
        return self.name == "docker"

    def call(self, *arguments: str, **environment: str) -> str:
        """What a command says on its standard output."""
        called = subprocess.run(
            [self._program, *arguments],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        if called.returncode:
            said = "\n".join((called.stdout + called.stderr).splitlines()[-30:])
            raise Failed(f"{self.name} {' '.join(arguments[:3])} ... ended with {called.returncode}:\n{said}")
        return called.stdout

    def logs(self, container: str) -> str:
        """What a container has written so far."""
        command = [self._program, "logs", container]
        return subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
        ).stdout

    def build(self, dockerfile: Path, tag: str, secrets: Mapping[str, Path], **arguments: str) -> None:
        """Build an image from the checkout."""
        given = [f"--build-arg={name}={value}" for name, value in arguments.items()]
        given += [f"--secret=id={name},src={path}" for name, path in secrets.items()]
        # Health checks are no part of OCI's format; and a build that has no rights needs none.
        own = [] if self.is_docker else ["--format=docker", "--isolation=chroot"]
        self.call("build", "--network=host", *own, *given, f"--file={dockerfile}", f"--tag={tag}", str(ROOT))

    def size(self, image: str) -> int:
        """Bytes of an image's layers, unpacked."""
        return int(self.call("image", "inspect", "--format={{.Size}}", image))

    @contextmanager
    def files(self, image: str) -> Iterator[tarfile.TarFile]:
        """All that is in an image."""
        container = self.call("create", image).strip()
        try:
            with subprocess.Popen([self._program, "export", container], stdout=subprocess.PIPE) as exporting:
                with tarfile.open(fileobj=exporting.stdout, mode="r|") as archive:
                    yield archive
                exporting.communicate()
        finally:
            self.call("rm", "--force", container)

    @contextmanager
    def running(self, image: str, flags: Sequence[str], *arguments: str) -> Iterator[str]:
        """A container: its name."""
        container = self.call("run", "--detach", *self._own(), *flags, image, *arguments).strip()
        try:
            yield container
        finally:
            self.call("rm", "--force", container)

    def compose(self, folder: Path, *arguments: str, **environment: str) -> str:
        """``docker compose`` with our file upon a folder, as a project of its own."""
        where = (
            "--file",
            str(COMPOSE),
            "--project-directory",
            str(folder),
            "--project-name",
            "tessera-trial",
        )
        return self.call("compose", *where, *arguments, **environment)

    def _own(self) -> list[str]:
        """What Podman needs where there is no systemd, and where limits cannot be raised."""
        if self.is_docker:
            return []
        limits = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
        most = {name: min(4096, resource.getrlimit(number)[1]) for name, number in limits.items()}
        return ["--no-healthcheck", *(f"--ulimit={name}={value}:{value}" for name, value in most.items())]


def choose() -> Engine:
    """Docker where it answers, else Podman for root."""
    try:
        docker = Engine("docker")
        docker.call("info")
    except Failed as why:
        if os.geteuid() == 0 and shutil.which("podman"):
            return Engine("podman")
        raise Failed(f"{why}\nInstead, as root: apt-get install podman buildah runc debootstrap") from why
    return docker
