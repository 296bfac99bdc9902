"""Facts about a call, collected while it runs, for the access log and the metrics."""

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class CallRecord:
    """One call.

    - ``model``: the name of the served model that was chosen; never a word of the client
    - ``key``: the name of its key
    - ``bytes_in``: bytes of the body that were received, compressed if they were
    - ``rows``: rows that were given to models
    - ``queue_seconds``, ``run_seconds``: until the first batch began, and from then until the last ended; of
      all runs together
    """

    model: str = ""
    key: str = ""
    bytes_in: int = 0
    rows: int = 0
    queue_seconds: float = 0.0
    run_seconds: float = 0.0


# The record of the task's call. The default, outside of a call, is not logged.
current_call: ContextVar[CallRecord] = ContextVar("current_call", default=CallRecord())  # noqa: B039 - never read
