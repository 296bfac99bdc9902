import asyncio

import pytest

from service.server import liveness
from service.server.control_channel import ControlChannel
from service.server.liveness import Health, LivenessCheck


def test_it_checks_at_most_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[bool] = []

    def fatal_errors() -> list[str]:
        looked.append(True)
        return ["ill"] if len(looked) > 1 else []

    async def main() -> None:
        check = LivenessCheck(fatal_errors, ControlChannel())
        assert await asyncio.gather(*[check.health() for _ in range(100)]) == [Health([], 1)] * 100
        assert len(looked) == 1
        monkeypatch.setattr(liveness, "FRESH", 0.0)
        later = LivenessCheck(fatal_errors, ControlChannel())
        assert await later.health() == Health(["ill"], 1)
        await later.health()
        assert len(looked) == 3

    asyncio.run(main())
