"""Logs on stderr: lines of text, or one JSON object per line."""

import json
import logging
import sys
from datetime import UTC, datetime

import orjson

from service.settings import Settings

# The attributes of every record, and those of uvicorn and Ray; all others come from ``extra`` and are logged.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
    "_ray_timestamp_ns",
}


class JSONLines(logging.Formatter):
    """A record as a JSON object: ``time`` (UTC), ``level``, ``logger``, ``message``, and any ``extra``."""

    def format(self, record: logging.LogRecord) -> str:
        document = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in _STANDARD},
        }
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(document, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
        except TypeError:  # a text that is not UTF-8, such as the name of a file, or a number of over 64 bits
            return json.dumps(document, default=str)


def _renamed(record: logging.LogRecord) -> bool:
    """Uvicorn calls its only logger of messages ``uvicorn.error``, whatever their level."""
    if record.name == "uvicorn.error":
        record.name = "uvicorn"
    return True


def configure(settings: Settings) -> None:
    """Set up logging: ``log_format`` and ``log_level`` of the settings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_renamed)
    if settings.log_format == "json":
        handler.setFormatter(JSONLines())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-8s %(name)s: %(message)s"))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
