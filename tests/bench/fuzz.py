"""Bodies of all kinds by the thousand: that nothing fails, hangs, leaks, or is read otherwise than by Pillow.

Each goes to ``/encode`` of an app in this process, which must answer within seconds, and never with 5xx.
Pictures are also read both ways, with the quick codecs and by Pillow alone: the pixels must be the same, or
the problem. A body hangs on the seed and its number alone; those at fault are kept as files.
"""

import asyncio
import contextlib
import faulthandler
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from urllib.parse import urlencode

import click
from starlette.types import Message

from service.api.app import App, create_app
from service.api.problems import MEDIA_TYPE
from service.manifest import ImageSpec
from service.settings import Settings
from tests.service import toy, wild
from tests.service.outcomes import by_pillow_alone, outcome

SETTINGS = Settings(
    max_pixels=10_000, max_total_pixels=100_000, max_body_bytes=2**20, provider="cpu", threads=1
)
SPECS = (
    ImageSpec(channels=1, height=12, width=12, multiple_of=1, background=9),
    ImageSpec(channels=3, height=12, width=12, multiple_of=1, background=255, fit="pad"),
)
# What is made once and kept is made in the first of this many.
WARM = 1000


@click.command("fuzz")
@click.option("--count", default=100_000, show_default=True, help="bodies")
@click.option("--seed", default=0, show_default=True)
@click.option("--first", default=0, show_default=True, help="number of the first body")
@click.option("--limit", default=5.0, show_default=True, help="seconds for one body")
@click.option("--leak", default=64, show_default=True, help="MiB that memory may grow after the first bodies")
@click.option("--keep", default=Path("build/fuzz"), show_default=True, type=click.Path(path_type=Path))
def command(count: int, seed: int, first: int, limit: float, leak: int, keep: Path) -> None:
    """Send bodies of all kinds, whole, damaged and made to deceive; exit 1 if any is at fault."""
    asyncio.run(_fuzz(range(first, first + count), seed, limit, leak, keep))


@dataclass
class Answer:
    """What an app answered: as much as was sent."""

    status: int = 0
    media: str = ""
    content: bytes = b""


@dataclass
class Tally:
    """What was seen, and what was at fault."""

    answers: Counter[str] = field(default_factory=Counter)
    faults: int = 0
    slowest: float = 0.0


async def _fuzz(numbers: range, seed: int, limit: float, leak: int, keep: Path) -> None:
    # Pillow warns of what it makes do with, such as EXIF that is cut off.
    warnings.simplefilter("ignore")
    tally, before, started = Tally(), 0.0, time.perf_counter()
    async with _service() as app:
        for number in numbers:
            if number == numbers[min(WARM, len(numbers) // 2)]:
                before = resident()
            random = wild.numbered(f"{seed} {number}")
            kind, body = wild.body(random)
            # What hangs without letting go is killed, and told from where.
            faulthandler.dump_traceback_later(10 * limit, exit=True)
            began = time.perf_counter()
            complaint = await _tried(app, kind, body, random, tally)
            seconds = time.perf_counter() - began
            faulthandler.cancel_dump_traceback_later()
            tally.slowest = max(tally.slowest, seconds)
            if seconds > limit:
                complaint = f"took {seconds:.1f} s"
            if complaint:
                tally.faults += 1
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{seed}-{number}.{kind}").write_bytes(body)
                click.echo(f"{seed}-{number}.{kind}: {complaint}")
        after = resident()
    click.echo("| body | status | count |\n|---|---|---|")
    for name, times in sorted(tally.answers.items()):
        click.echo(f"| {name} | {times:,} |")
    click.echo(
        f"{len(numbers):,} bodies in {(time.perf_counter() - started) / 60:.1f} minutes, the slowest in "
        f"{tally.slowest * 1000:.0f} ms; {tally.faults} at fault; resident memory {before:.0f} MiB after the "
        f"first, {after:.0f} MiB at the end"
    )
    if tally.faults or after - before > leak:
        raise click.ClickException(f"{tally.faults} at fault, memory grew by {after - before:.0f} MiB")


def resident() -> float:
    """Memory of this process that is in use now, in MiB (Linux)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise click.ClickException("the system does not tell how much memory is in use")


@contextlib.asynccontextmanager
async def _service() -> AsyncIterator[App]:
    """An app with two small models, of grey and of colour pictures."""
    with tempfile.TemporaryDirectory() as name:
        toy.write_levels(Path(name))
        toy.write_colours(Path(name))
        app = create_app(SETTINGS.model_copy(update={"models": Path(name)}))
        async with app.fastapi.router.lifespan_context(app.fastapi):
            yield app


async def _tried(app: App, kind: str, body: bytes, random: Random, tally: Tally) -> str:
    """What is wrong with what came of a body; nothing if nothing is."""
    said = wild.MIMES[kind] if random.random() < 0.5 else ""
    asked = {"model": random.choice(("levels", "colours")), "resize": random.choice(("true", "false"))}
    answer = await _posted(app, body, said, asked)
    tally.answers[f"{kind} | {answer.status}"] += 1
    if answer.status != 200 and (not 400 <= answer.status < 500 or answer.media != MEDIA_TYPE):
        return f"{answer.status} {answer.media}: {answer.content!r}"
    if kind in wild.PICTURES:
        spec, resize = random.choice(SPECS), random.random() < 0.5
        came = outcome(body, spec, SETTINGS, resize=resize)
        expected = by_pillow_alone(body, spec, SETTINGS, resize=resize)
        if came != expected:
            return f"read otherwise than by Pillow alone: {_told(came)}, not {_told(expected)}"
    return ""


async def _posted(app: App, body: bytes, media: str, query: dict[str, str]) -> Answer:
    """The answer to a POST of a body to ``/encode``, without a socket in between."""
    answer = Answer()
    left: list[Message] = [{"type": "http.request", "body": body}]

    async def receive() -> Message:
        if left:
            return left.pop()
        # Who left would get no answer if that took long.
        return await asyncio.get_running_loop().create_future()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.media = dict(message["headers"]).get(b"content-type", b"").decode("ascii")
        else:
            answer.content += message["body"]

    headers = [(b"content-length", str(len(body)).encode("ascii"))]
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": "/encode",
        "query_string": urlencode(query).encode("ascii"),
        "headers": [*headers, (b"content-type", media.encode("ascii"))] if media else headers,
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 8000),
        "scheme": "http",
    }
    with contextlib.suppress(Exception):  # which the app raises anew when it has answered 500
        await app(scope, receive, send)
    return answer


def _told(came: tuple[object, ...]) -> str:
    return f"pixels {came[1:]}" if isinstance(came[0], bytes) else f"{came[0]} {came[1]}"
