"""Build the images, look into them, and run them as the compose file does.

    python -m tests.deployment.images                                        all of them: 40 GB of disk
    python -m tests.deployment.images --image cpu --image trainer            some of them
    STORAGE_DRIVER=vfs python -m tests.deployment.images --image cpu         where there is no Docker, as root

It takes Docker where it answers, else Podman, which builds with Buildah. Where the public base image cannot
be had, Debian's own Python, by debootstrap, stands in for it. What was exercised, and what was not, is said
at the end.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click

from tests.deployment.files import DOCKER, ROOT
from tests.deployment.images import base as bases
from tests.deployment.images import trial
from tests.deployment.images.contents import SERVICE_LACKS, TRAINER_LACKS, complaints, entries
from tests.deployment.images.engines import Engine, Failed, choose
from tests.e2e.load import Call, Load
from tests.fixtures.processes import free_port

IMAGES = ("cpu", "cuda", "trainer")
USER, ANOTHER = 10001, 4242
KEY = "a key for reloads"
SMALL = [
    "--publish-anyway",
    *("--epochs=1", "--limit=512", "--batch-size=64", "--name=fresh", "--codebook-size=16"),
    *("--codebook-dim=4", "--width=16", "--stem-width=8", "--hidden-width=8", "--blocks=1"),
]


class Report:
    """What was done, and what was left."""

    def __init__(self) -> None:
        self.left: list[str] = []

    def did(self, what: str) -> None:
        click.echo(f"ok    {what}")

    def leave(self, what: str) -> None:
        self.left.append(what)


@click.command(help=__doc__.replace("\n\n    ", "\n\n\b\n    "))
@click.option("--image", "images", type=click.Choice(IMAGES), multiple=True, help="which; repeatable")
@click.option("--keep/--remove", default=True, show_default=True, help="the images, afterwards")
def main(images: Sequence[str], keep: bool) -> None:
    """Build, look, run."""
    report = Report()
    try:
        engine = choose()
        with tempfile.TemporaryDirectory() as scratch:
            _all(engine, Path(scratch), images or IMAGES, report)
        if not keep:
            engine.call("rmi", "--force", *(f"tessera:{image}" for image in images or IMAGES))
    except (Failed, AssertionError) as error:
        click.echo(f"FAIL  {error}", err=True)
        sys.exit(1)
    for what in report.left:
        click.echo(f"not   {what}")


def _all(engine: Engine, scratch: Path, images: Sequence[str], report: Report) -> None:
    base = bases.base(engine)
    report.did(f"{engine.name} builds upon {base}")
    if base != bases.public():
        report.leave(f"the public base image, {bases.public()}")
    secrets = bases.secrets(scratch)
    for image in images:
        _build(engine, image, base, secrets, report)
    for image in set(IMAGES) - set(images):
        report.leave(f"tessera:{image}")
    exported = _own(scratch / "project")
    if "cpu" in images:
        _run(engine, exported, report)
    if "cuda" in images:
        _without_gpu(engine, exported, report)
    if engine.is_docker and "cpu" in images:
        _compose(engine, exported.parent, images, report)
    else:
        report.leave("docker compose: the containers ran with flags made from the compose file")
        report.leave("a GPU: the image for CUDA ran on the CPU")
    report.leave("the profile monitoring: its images are public ones")


def _build(engine: Engine, image: str, base: str, secrets: Mapping[str, Path], report: Report) -> None:
    tag, of_service = f"tessera:{image}", image != "trainer"
    dockerfile = DOCKER / ("service.Dockerfile" if of_service else "trainer.Dockerfile")
    arguments = {"PYTHON_IMAGE": base} | ({"PROVIDER": image} if of_service else {})
    engine.build(dockerfile, tag, secrets, **arguments)
    lacks, writable = (SERVICE_LACKS, ["tmp"]) if of_service else (TRAINER_LACKS, ["tmp", "cache"])
    with engine.files(tag) as archive:
        wrong = complaints(entries(archive), lacks, writable, USER, USER)
    if wrong:
        raise Failed(f"{tag} holds what it should not:\n" + "\n".join(wrong[:50]))
    whole, below = engine.size(tag), engine.size(base)
    report.did(
        f"{tag}: {whole / 1e6:,.0f} MB, of which {below / 1e6:,.0f} MB are the base; "
        "it holds nothing that it should not"
    )


def _own(project: Path) -> Path:
    """A folder with the models and for runs, which belongs to who will train."""
    exported = Path(shutil.copytree(ROOT / "exported", project / "exported"))
    (project / "runs").mkdir()
    project.parent.chmod(0o755)
    if os.geteuid() == 0:
        for path in (project / "runs", exported):
            os.chown(path, ANOTHER, ANOTHER)
    return exported


def _run_as() -> int:
    return os.geteuid() or ANOTHER


def _run(engine: Engine, exported: Path, report: Report) -> None:
    """The image for the CPU, as another user than its own."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    flags = [*trial.flags("cpu", exported, port), f"--user={ANOTHER}:{ANOTHER}"]
    with engine.running("tessera:cpu", flags) as container:
        trial.until(lambda: trial.answers(url), "the service is ready")
        trial.calls(url)
        trial.inside(engine, container, ANOTHER)
        asked = engine.call("exec", container, "python", "-S", "-m", "service.server.healthcheck")
        assert asked == "ready\n", asked
        code = trial.ended(engine, container)
        assert code == 0, f"SIGTERM ended it with {code}"
    report.did(
        f"it serves as user {ANOTHER}, with a read-only root, no capabilities, no new privileges, "
        "and nothing to write to but /tmp and what the engine mounts below /dev"
    )
    report.did("SIGTERM ends it with 0")


def _without_gpu(engine: Engine, exported: Path, report: Report) -> None:
    """The image for CUDA where there is none: it says so, and does not start if it must have it."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    flags = trial.flags("service", exported, port)
    with engine.running("tessera:cuda", [*flags, "--env=TESSERA_PROVIDER=auto"]) as container:
        trial.until(lambda: trial.answers(url), "the service is ready")
        trial.calls(url)
        trial.inside(engine, container, USER)
    with engine.running("tessera:cuda", flags) as container:
        code = int(engine.call("wait", container))
        said = engine.logs(container)
    assert code == 1, f"without a GPU it ended with {code}: {said}"
    assert "provider=cuda, but CUDA cannot be used" in said, said
    report.did("the image for CUDA serves on the CPU if it may, and refuses to start if it may not")


def _compose(engine: Engine, project: Path, images: Sequence[str], report: Report) -> None:
    port, user = free_port(), _run_as()
    url = f"http://127.0.0.1:{port}"
    variables = {
        "PUBLISH": f"127.0.0.1:{port}",
        "RUN_AS": f"{user}:{user}",
        "TESSERA_RELOAD_KEY": KEY,
    }

    def compose(*arguments: str) -> str:
        return engine.compose(project, *arguments, **variables)

    try:
        compose("--profile=*", "config", "--quiet")
        compose("up", "--detach", "--no-build", "--wait", "cpu")
        report.did("docker compose up cpu: it becomes healthy")
        trial.calls(url)
        container = compose("ps", "--quiet", "cpu").strip()
        trial.inside(engine, container, USER)
        if "trainer" in images:
            _train(compose, url, report)
        compose("stop", "cpu")
        code = engine.call("inspect", "--format={{.State.ExitCode}}", container).strip()
        assert code == "0", f"docker compose stop: it ended with {code}"
        report.did("docker compose stop: it ends with 0")
        if "cuda" in images and shutil.which("nvidia-smi"):
            compose("up", "--detach", "--no-build", "--wait", "service")
            trial.calls(url, "cuda")
            report.did("docker compose up: it serves on the GPU")
        else:
            report.leave("a GPU: the image for CUDA ran on the CPU")
    finally:
        compose("--profile=*", "down", "--volumes")


def _train(compose: Callable[..., str], url: str, report: Report) -> None:
    """A model is trained, published and loaded, and again, while callers go on."""
    seven = Call("/encode?model=vqvae-mnist", trial.SEVEN, lambda body: b'"codes"' in body)
    with Load(url, [seven], callers=4) as load:
        said = compose("run", "--rm", "--no-deps", "train-cpu", "vqvae", *SMALL)
        assert "loaded fresh; kept" in said, said
        first = trial.version(url, "fresh")
        fresh = Call("/encode?model=fresh", trial.SEVEN, lambda body: b'"codes"' in body)
        with Load(url, [fresh], callers=2) as upon:
            said = compose("run", "--rm", "train-cpu", "vqvae", "--resume", "--epochs=2", "--name=fresh")
            assert "loaded fresh; kept" in said, said
            upon.wait_for(50)
        load.wait_for(50)
    assert trial.version(url, "fresh") != first, "the model is the same as before"
    assert set(load.counts) == set(upon.counts) == {"right"}, (load.counts, upon.counts)
    count = load.counts.total() + upon.counts.total()
    report.did(
        "docker compose run train-cpu: a model was trained, published and loaded, and so was the next "
        f"in its place; of {count:,} calls meanwhile none failed"
    )


if __name__ == "__main__":
    main()
