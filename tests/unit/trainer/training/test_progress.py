import time

import pytest

from tests.fixtures import tiny_models
from trainer.training.progress import Progress, describe, duration

RECORD = {
    "epoch": 1.0,
    "step": 4.0,
    "loss": 0.04123,
    "perplexity": 402.51,
    "usage": 0.998,
    "lr": 1e-3,
    "seconds": 2.0,
    "images_per_second": 1234.5,
}


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00"), (59.4, "0:59"), (61, "1:01"), (3599.6, "1:00:00"), (3723, "1:02:03")]
)
def test_durations_are_short(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_figures_are_on_one_line() -> None:
    assert describe({"loss": 0.04123, "perplexity": 402.51, "usage": 0.998}) == (
        "loss 0.04123  perplexity 402.5  usage 99.8%"
    )


def test_an_epoch_is_a_line() -> None:
    console = tiny_models.console()
    with Progress(console, epochs=3, steps=4, batch_size=32, done=0) as shown:
        for _ in range(4):
            shown.advance(1)
        shown.epoch_done(RECORD)
    line = tiny_models.printed(console)
    assert line.startswith("epoch 1/3  loss 0.04123  perplexity 402.5  usage 99.8%  1,234 images/s  0:0")
    assert line.endswith(" left\n")
    assert line.count("\n") == 1


def test_the_time_left_follows_from_the_speed_of_the_last_epoch() -> None:
    console = tiny_models.console()
    shown = Progress(console, epochs=3, steps=4, batch_size=32, done=4)
    for _ in range(4):
        shown.advance(2)
    shown.epoch_done(RECORD | {"images_per_second": 6.4})
    assert tiny_models.printed(console).endswith("  0:20 left\n")


def test_in_a_file_a_long_epoch_shows_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10**6, 7))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    console = tiny_models.console()
    shown = Progress(console, epochs=2, steps=100, batch_size=32, done=0)
    for _ in range(20):
        shown.advance(1, {"loss": 0.5})
    lines = tiny_models.printed(console).splitlines()
    assert 1 <= len(lines) < 20
    assert "of epoch 1  loss 0.5" in lines[0]


def test_on_a_terminal_there_is_a_live_line() -> None:
    console = tiny_models.console(terminal=True)
    with Progress(console, epochs=2, steps=2, batch_size=32, done=0) as shown:
        shown.advance(1, {"loss": 0.5})
        shown.advance(1, {"loss": 0.25})
    text = tiny_models.printed(console)
    assert "epoch 1/2" in text
    assert "2/4" in text
    assert "loss 0.25" in text
    assert "images/s" in text
