"""Pictures of all kinds, whole and broken: the fast decoders must give what Pillow gives, pixels or problem.

A picture depends on the seed and its number alone. Those that differ are kept as files.
"""

import time
import warnings
from collections import Counter
from pathlib import Path

import click

from service.codecs.images import ImageLimits
from service.contract.manifest import ImageSpec
from tests.fixtures import fuzz_images
from tests.fixtures.outcomes import by_pillow_alone, outcome

LIMITS = ImageLimits(max_pixels=10_000, max_images=10, max_total_pixels=100_000)
SPECS = (
    ImageSpec(channels=1, height=12, width=12, multiple_of=1, background=9),
    ImageSpec(channels=3, height=12, width=12, multiple_of=1, background=255, fit="pad"),
)


@click.command("decoding")
@click.option("--count", default=100_000, show_default=True, help="pictures")
@click.option("--seed", default=0, show_default=True)
@click.option("--first", default=0, show_default=True, help="number of the first picture")
@click.option("--keep", default=Path("build/decoding"), show_default=True, type=click.Path(path_type=Path))
def command(count: int, seed: int, first: int, keep: Path) -> None:
    """Read pictures both ways; exit 1 if any differs."""
    # Pillow warns of what it makes do with, such as EXIF that is cut off.
    warnings.simplefilter("ignore")
    seen, faults, began = Counter[str](), 0, time.perf_counter()
    for number in range(first, first + count):
        random = fuzz_images.numbered(f"{seed} {number}")
        data = fuzz_images.picture(random)
        spec, resize = random.choice(SPECS), random.random() < 0.5
        came = outcome(data, spec, LIMITS, resize=resize)
        expected = by_pillow_alone(data, spec, LIMITS, resize=resize)
        seen["pixels" if isinstance(came[0], bytes) else came[0].__name__] += 1
        if came != expected:
            faults += 1
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{seed}-{number}").write_bytes(data)
            click.echo(
                f"{keep}/{seed}-{number}: {_described(came)}, and by Pillow alone {_described(expected)}"
            )
    outcomes = ", ".join(f"{times:,} {what}" for what, times in sorted(seen.items()))
    click.echo(
        f"{count:,} pictures in {(time.perf_counter() - began) / 60:.1f} minutes: {outcomes}; {faults} differ"
    )
    if faults:
        raise SystemExit(1)


def _described(came: tuple[object, ...]) -> str:
    return f"pixels {came[1:]}" if isinstance(came[0], bytes) else f"{came[0]} {came[1]}"
