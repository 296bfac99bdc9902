"""Where rows are played: a service of one checkout with a bystander beside it, and what was found."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks.hostile.bystander import Bystander, Waits, standing_by
from tests.benchmarks.started import Peak, Service, started
from tests.benchmarks.wire import SILENT, Answer, failures

# What others may wait at most, in seconds.
LIMIT = 0.1
MODEL = "vqvae-mnist"
PICTURE = Path(__file__).parents[2] / "fixtures" / "seven.png"
WARM = 1.0


@dataclass(frozen=True)
class Finding:
    """A row of the table: what was sent and what came of it; ``growth`` is in MiB."""

    sent: str
    holds: bool
    said: str = ""
    others: str = ""
    outcomes: Counter[str] = field(default_factory=Counter)
    growth: float | None = None

    @property
    def failures(self) -> int:
        """Answers with 5xx."""
        return failures(self.outcomes)


# What a row asks for beyond that nobody waits and nothing is 5xx: what to tell, and whether it holds.
Judge = Callable[[Sequence[Answer], Waits, Peak], tuple[str, bool]]


def _nothing_more(answers: Sequence[Answer], _waits: Waits, _peak: Peak) -> tuple[str, bool]:
    slowest = max((answer.seconds for answer in answers), default=0.0)
    return f"{slowest:.2f} s" if slowest else "", True


@dataclass(frozen=True)
class Scene:
    """A service with a bystander."""

    service: Service
    bystander: Bystander

    def attack(
        self,
        sent: str,
        act: Callable[[], Sequence[Answer]],
        judge: Judge = _nothing_more,
        *,
        answered: bool = True,
    ) -> Finding:
        """Do something and see who suffers. ``answered``: whether each request has to get an answer."""
        self.bystander.reset()
        with Peak(self.service) as peak:
            answers = act()
            time.sleep(0.1)
            waits = self.bystander.waits()
        outcomes = Counter(answer.label for answer in answers)
        said, holds = judge(answers, waits, peak)
        in_time = waits.slowest - waits.hiccup <= LIMIT
        fine = in_time and not failures(outcomes + waits.outcomes)
        if answered:
            fine = fine and not outcomes[SILENT]
        return Finding(sent, holds and fine, said, waits.cell(), outcomes, peak.growth)


@dataclass(frozen=True)
class Stage:
    """A checkout, and the models that its service is given; ``scratch`` is a folder of its own."""

    name: str
    source: Path
    models: Path
    scratch: Path

    @contextmanager
    def service(
        self,
        workers: int = 2,
        models: Path | None = None,
        flags: Mapping[str, str] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> Iterator[Service]:
        """A service that is ready."""
        given = {"--workers": str(workers), "--default-model": MODEL, **(flags or {})}
        with started(self.source, models or self.models, given, variables) as service:
            yield service

    @contextmanager
    def scene(self, model: str = MODEL, models: Path | None = None, **flags: str) -> Iterator[Scene]:
        """A service of two workers that is ready and warm, and somebody who uses it."""
        given = {f"--{name.replace('_', '-')}": value for name, value in flags.items()}
        with (
            self.service(models=models, flags={"--default-model": model, **given}) as service,
            standing_by(service, PICTURE.read_bytes(), model) as bystander,
        ):
            # Whatever is made on first use is made now.
            time.sleep(WARM)
            yield Scene(service, bystander)


Row = Callable[[Stage], Iterator[Finding]]
