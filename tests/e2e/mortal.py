"""The service, whose batches end their threads after SIGUSR1: ``python -m tests.e2e.mortal`` and flags."""

import signal
import sys

from service.__main__ import main
from service.models import Model


class Killed(BaseException):
    """What no batch recovers from."""


def kill(*_: object) -> None:
    def killed(*_: object) -> None:
        raise Killed

    Model.run_batch = killed  # type: ignore[method-assign,assignment]


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, kill)
    sys.exit(main())
