import io

import pytest

from service.bulk.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_pictures_are_counted_where_their_number_is_known() -> None:
    progress = Progress(100, 4, io.StringIO())
    progress.add(25, 0, shards=1)
    assert progress.line(10) == "25 of 100 images, 2.5 images/s, 0:00:30 left"


def test_shards_are_counted_elsewhere() -> None:
    progress = Progress(None, 4, io.StringIO())
    progress.add(25, 3, shards=1)
    assert progress.line(10) == "25 images, 1 of 4 shards, 2.5 images/s, 0:00:30 left, 3 broken"


def test_nothing_is_known_before_the_first() -> None:
    assert "time left unknown" in Progress(100, 4, io.StringIO()).line(1)


def test_a_terminal_has_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 1.0, 2.0, 3600.0])
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    out = Terminal()
    progress = Progress(100, 4, out, _began=next(times))
    progress.add(10, 0)
    progress.add(10, 0)
    assert out.getvalue().count("\r") == 2
    assert "\n" not in out.getvalue()
    assert progress.end() == "20 images in 1:00:00, 0.0056 images/s"


def test_a_log_has_a_line_at_times(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 1.0, 11.0])
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    out = io.StringIO()
    progress = Progress(100, 4, out, _began=next(times))
    progress.add(10, 0)
    progress.add(10, 0)
    assert out.getvalue() == "20 of 100 images, 1.8 images/s, 0:00:44 left\n"
