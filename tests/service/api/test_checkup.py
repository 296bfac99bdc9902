import asyncio
import threading

import pytest

from service.api import checkup
from service.api.checkup import Checkup, Health
from service.crew import Crew


def test_it_looks_at_most_once_a_second_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[bool] = []

    def ailments() -> list[str]:
        looked.append(True)
        return ["ill"] if len(looked) > 1 else []

    async def main() -> None:
        check = Checkup(ailments, Crew())
        assert await asyncio.gather(*[check.health() for _ in range(100)]) == [Health([], 1)] * 100
        assert len(looked) == 1
        monkeypatch.setattr(checkup, "FRESH", 0.0)
        later = Checkup(ailments, Crew())
        assert await later.health() == Health(["ill"], 1)
        await later.health()
        assert len(looked) == 3

    asyncio.run(main())


def test_a_check_that_does_not_end_is_an_ailment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "PATIENCE", 0.05)
    release = threading.Event()

    def stuck() -> list[str]:
        release.wait(10)
        return []

    async def main() -> None:
        assert (await Checkup(stuck, Crew()).health()).ailments == [
            "the check of this worker did not end within 0.05 s"
        ]
        release.set()

    asyncio.run(main())
