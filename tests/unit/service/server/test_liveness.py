import asyncio

import pytest

from service.server import liveness
from service.server.control_channel import Crew
from service.server.liveness import Checkup, Health


def test_it_looks_at_most_once_a_second_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[bool] = []

    def ailments() -> list[str]:
        looked.append(True)
        return ["ill"] if len(looked) > 1 else []

    async def main() -> None:
        check = Checkup(ailments, Crew())
        assert await asyncio.gather(*[check.health() for _ in range(100)]) == [Health([], 1)] * 100
        assert len(looked) == 1
        monkeypatch.setattr(liveness, "FRESH", 0.0)
        later = Checkup(ailments, Crew())
        assert await later.health() == Health(["ill"], 1)
        await later.health()
        assert len(looked) == 3

    asyncio.run(main())
