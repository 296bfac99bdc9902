"""All rows of what may be done to a service, against one checkout or several in turns, and one table."""

import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click

from tests.benchmarks.hostile import access, hanging, holding, reading, reloading, running
from tests.benchmarks.hostile.stage import Finding, Row, Stage
from tests.benchmarks.started import ROOT

ROWS: list[tuple[str, Row]] = sorted(
    (row for module in (reading, hanging, holding, running, reloading, access) for row in module.ROWS),
    key=lambda row: (not row[0].isdecimal(), row[0].zfill(2)),
)
NAMES = list(dict.fromkeys(name for name, _ in ROWS))


def _chosen(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Sequence[str]:
    wanted = [name.strip() for name in value.split(",")] if value else NAMES
    if unknown := [name for name in wanted if name not in NAMES]:
        raise click.BadParameter(f"there is no row {unknown[0]!r}; there are {', '.join(NAMES)}")
    return wanted


@click.command("hostile")
@click.option(
    "--source",
    "sources",
    multiple=True,
    default=(str(ROOT),),
    metavar="[NAME=]DIR",
    help="a checkout whose service is attacked; repeatable, then in turns  [default: this one]",
)
@click.option("--rows", callback=_chosen, metavar="ROW,...", help=f"of {', '.join(NAMES)}; default: all")
@click.option(
    "--models",
    type=click.Path(path_type=Path, exists=True),
    default=ROOT / "exported",
    help="exported, the four of MNIST  [default: ./exported]",
)
def command(sources: tuple[str, ...], rows: Sequence[str], models: Path) -> None:
    """Attack a service in every way that is known; exit 1 if a goal is missed."""
    # SIGTERM ends the services too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    began, missed = time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="bench") as scratch:
        stages = [_stage(source, models, Path(scratch)) for source in sources]
        click.echo(
            "| row | service | sent | others, slowest | answers | 5xx | growth, MiB | what else | goal |"
        )
        click.echo("|---" * 9 + "|")
        for name, row in ROWS:
            for stage in stages if name in rows else ():
                for finding in _played(row, stage):
                    missed += not finding.holds
                    click.echo(_line(name, stage, finding))
    click.echo(f"\n{(time.monotonic() - began) / 60:.1f} minutes; {missed} goals missed")
    if missed:
        raise SystemExit(1)


def _stage(source: str, models: Path, scratch: Path) -> Stage:
    name, _, folder = source.rpartition("=")
    path = Path(folder).resolve()
    if not (path / "service" / "__main__.py").exists():
        raise click.BadParameter(f"there is no service in {path}", param_hint="--source")
    return Stage(name or path.name, path, models.resolve(), scratch)


def _played(row: Row, stage: Stage) -> list[Finding]:
    """What was found, or what kept it from being found: that a service does not start is one too."""
    findings: list[Finding] = []
    try:
        # One by one: what was found before stays.
        for finding in row(stage):
            findings.append(finding)  # noqa: PERF402 - see above
    except (click.ClickException, OSError) as error:
        said = error.format_message() if isinstance(error, click.ClickException) else repr(error)
        findings.append(Finding(row.__name__, False, f"could not be played: {said}"))
    return findings


def _line(name: str, stage: Stage, finding: Finding) -> str:
    growth = "" if finding.growth is None else f"{finding.growth:+.0f}"
    cells = [
        *(name, stage.name, finding.sent, finding.others, _counted(finding.outcomes), str(finding.failures)),
        *(growth, finding.said, "holds" if finding.holds else "**misses**"),
    ]
    return "| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |"


def _counted(outcomes: Counter[str]) -> str:
    return ", ".join(f"{what} ({count:,})" if count > 1 else what for what, count in sorted(outcomes.items()))
