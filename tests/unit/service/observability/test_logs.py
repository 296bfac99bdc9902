import json
import logging
import sys
from collections.abc import Iterator

import pytest

from service.observability import logs
from service.settings import Settings


@pytest.fixture(autouse=True)
def restored_root_logger() -> Iterator[None]:
    logger = logging.getLogger()
    before = logger.level, logger.handlers[:]
    yield
    logger.setLevel(before[0])
    logger.handlers[:] = before[1]


def test_text_lines(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Settings(log_level="warning"))
    logging.getLogger("here").warning("%d of them", 3)
    logging.getLogger("here").info("not so severe")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("WARNING  here: 3 of them")


def test_messages_of_uvicorn_have_a_plain_name(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Settings())
    # Critical: a server of another test may have set a level.
    logging.getLogger("uvicorn.error").critical("no more")
    assert capsys.readouterr().err.endswith("CRITICAL uvicorn: no more\n")


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Settings(log_format="json"))
    logging.getLogger("here").info("%d\nof them", 3, extra={"request_id": "mine", "odd": {1: sys}})
    logging.getLogger("here").info("no folder %s", "\udcff", extra={"size": 2**64})
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("here").exception("failed")
    first, odd, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["message"], first["level"], first["logger"]) == ("3\nof them", "info", "here")
    assert first["request_id"] == "mine"
    assert first["time"].endswith("+00:00")
    assert first.keys() == {"message", "level", "logger", "time", "request_id", "odd"}
    assert (odd["message"], odd["size"]) == ("no folder \udcff", 2**64)
    assert "ValueError: why" in second["exception"]
