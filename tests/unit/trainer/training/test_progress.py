import io
import re
import time
from dataclasses import replace

import pytest
from rich.console import Console

from tests.fixtures import tiny_models
from trainer.config import NCPConfig, VQVAEConfig, in_epochs, presets, resolve
from trainer.data import distributed
from trainer.errors import ConfigError
from trainer.evaluation.reconstructions import ENOUGH_STEPS, FEW_STEPS
from trainer.kinds import KINDS
from trainer.training.progress import Progress, announce_steps, describe, duration, in_words, long_step

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


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.2, "1 second"),
        (89, "89 seconds"),
        (1500, "25 minutes"),
        (5399, "90 minutes"),
        (9000, "2.5 hours"),
        (200_000, "2.5 days"),
    ],
)
def test_estimates_are_in_words(seconds: float, shown: str) -> None:
    assert in_words(seconds) == shown


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
    expected = r"epoch 1/3  0:0\d left  loss 0\.04123  perplexity 402\.5  usage 99\.8%  1,234 images/s\n"
    assert re.fullmatch(expected, line)


def test_the_time_left_follows_from_the_last_epoch_and_all_that_is_done_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    console = tiny_models.console()
    shown = Progress(console, epochs=4, steps=4, batch_size=32, done=4)
    for seconds in (60.0, 5.0):
        for _ in range(4):
            now[0] += 1
            shown.advance(2)
        now[0] += seconds
        shown.epoch_done(RECORD)
    lines = [line for line in tiny_models.printed(console).splitlines() if line.startswith("epoch ")]
    assert [line.split("  ")[1] for line in lines] == ["2:08 left", "0:09 left"]


def test_what_is_done_besides_the_steps_is_no_part_of_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    console = tiny_models.console()
    shown = Progress(console, epochs=2, steps=4, batch_size=32, done=0)
    with shown.besides("compiling the step"):
        now[0] += 300
    for metrics in (None, None, None, {"loss": 0.5}):
        now[0] += 1
        shown.advance(1, metrics)
    shown.epoch_done(RECORD)
    said, took, estimate, epoch = tiny_models.printed(console).splitlines()
    assert (said, took) == ("compiling the step ...", "compiling the step took 5 minutes")
    assert estimate == "time: about 4 seconds for 2 epochs, by 3 timed steps"
    assert "  0:04 left  " in epoch


def test_in_a_file_a_long_epoch_shows_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10**6, 7))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    console = tiny_models.console()
    shown = Progress(console, epochs=2, steps=100, batch_size=32, done=0)
    for _ in range(20):
        shown.advance(1, {"loss": 0.5})
    lines = tiny_models.printed(console).splitlines()[1:]
    assert 1 <= len(lines) < 20
    assert "of epoch 1  loss 0.5" in lines[0]


@pytest.mark.parametrize(
    ("epochs", "done", "what"), [(2, 0, "2 epochs"), (3, 100, "the 196 steps that are left")]
)
def test_once_the_first_steps_are_timed_the_whole_time_is_printed(
    monkeypatch: pytest.MonkeyPatch, epochs: int, done: int, what: str
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    console = tiny_models.console()
    shown = Progress(console, epochs=epochs, steps=100, batch_size=32, done=done)
    for seconds in (60.0, 2.0, 2.0, 2.0, 2.0):
        now[0] += seconds
        shown.advance(1)
    # The first step, which warms up, is left out.
    assert tiny_models.printed(console) == f"time: about 7 minutes for {what}, by 3 timed steps\n"


def test_at_the_end_no_time_left_is_printed() -> None:
    console = tiny_models.console()
    shown = Progress(console, epochs=1, steps=3, batch_size=32, done=0)
    for metrics in (None, None, {"loss": 0.5}):
        shown.advance(1, metrics)
    assert tiny_models.printed(console) == ""


METRICS = {
    "vqvae": {"loss": 1.333, "mse": 0.1535, "commitment_loss": 0.001979, "perplexity": 178.7, "usage": 0.9},
    "vlae": {"loss": 97.14, "reconstruction_loss": 71.37, "kl": 25.77},
    "prior": {"loss": 4.12},
}


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("kind", METRICS)
def test_a_narrow_terminal_has_bar_and_time_and_the_figures_that_fit(
    monkeypatch: pytest.MonkeyPatch, kind: str, width: int
) -> None:
    # The time left is not compared, as rich has its own clock.
    monkeypatch.setenv("COLUMNS", str(width))
    console = Console(file=io.StringIO(), width=width, highlight=False, force_terminal=True, soft_wrap=True)
    with Progress(console, epochs=30, steps=468, batch_size=128, done=0) as shown:
        for _ in range(99):
            shown.advance(12)
        shown.advance(12, METRICS[kind])
        time.sleep(0.2)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", tiny_models.printed(console))
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", plain) if "100/14040" in line]
    assert all(len(line) <= width for line in lines)
    first = f"loss {METRICS[kind]['loss']}"
    assert any(
        re.match(rf"epoch 12/30 [━╸╺]+ 100/14040 \d+:\d\d(:\d\d)? left {first}", each) for each in lines
    )
    # A figure is whole or absent.
    whole = {f"{name} {describe({name: value}).split()[1]}" for name, value in METRICS[kind].items()}
    figures = lines[-1].partition(" left ")[2].split("  ")
    assert {figure for figure in figures if not figure.endswith("images/s")} <= whole


def test_in_a_file_a_long_step_is_a_line_and_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    console = tiny_models.console()
    with long_step(console, "measuring") as report:
        for done in range(1, 11):
            now[0] += 20
            report(done * 1000, 10_000)
    lines = tiny_models.printed(console).splitlines()
    assert lines == ["  measuring", *(f"  measuring: {done},000/10,000" for done in (2, 4, 6, 8, 10))]


def test_on_a_terminal_a_long_step_is_gone_when_it_ends() -> None:
    console = tiny_models.console(terminal=True)
    with long_step(console, "measuring") as report:
        report(3, 20)
        time.sleep(0.2)
    text = tiny_models.printed(console)
    assert "measuring" in text
    assert "3/20" in text
    # The cursor goes up, and the line is erased.
    assert text.endswith("\x1b[1A\x1b[2K")


@pytest.mark.parametrize(
    ("epochs", "batch_size", "images", "flag", "lines"),
    [
        (2, 128, 600, "--lr", [" few", "--epochs 1100, or --batch-size 16 --epochs 119\n"]),
        (
            2,
            128,
            60_000,
            "--prior-lr",
            [" few", "--prior-epochs 10, or --prior-batch-size 16 --prior-epochs 2\n"],
        ),
        (20, 16, 1_000, "--lr", [" few", "with this data, --epochs 71\n"]),
        (1, 128, 5, "--lr", [" few", "with this data, --epochs 4400\n"]),
    ],
)
def test_a_warning_of_few_steps_says_what_would_be_enough(
    epochs: int, batch_size: int, images: int, flag: str, lines: list[str]
) -> None:
    console = tiny_models.console()
    schedule = replace(VQVAEConfig(name="x").schedule(), epochs=epochs, batch_size=batch_size)
    announce_steps(console, "model", flag, schedule, images)
    text = tiny_models.printed(console)
    assert text.startswith("steps of the model: ")
    assert all(line in text for line in lines)


def test_many_steps_are_only_counted() -> None:
    console = tiny_models.console()
    announce_steps(console, "model", "--lr", VQVAEConfig(name="x").schedule(), 60_000)
    counted = "steps of the model: 14,040 (--epochs 30, 468 steps each of 128 images)\n"
    assert tiny_models.printed(console) == counted


def test_a_batch_smaller_than_the_number_of_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    schedule = replace(VQVAEConfig(name="x").schedule(), batch_size=2)
    with pytest.raises(
        ConfigError, match=r"a batch of 2 images is for all 3 processes together.*fewer processes"
    ):
        announce_steps(tiny_models.console(), "model", "--lr", schedule, 60_000)


@pytest.mark.parametrize("kind", KINDS)
def test_every_preset_trains_for_enough_steps(kind: str) -> None:
    """On 60,000 digits, 2,819 emoji, 1,099 of the 1,221 pictures, or few and many pictures of one's own."""
    counts = {"mnist": [60_000], "emoji": [2_819], "pictures": [180, 2_820, 90_000]}
    data = {each: resolve(kind, preset=each, flags={}).data for each in presets(kind)}
    for name, images in [(each, count) for each in data for count in counts.get(data[each], [1_099])]:
        config = in_epochs(resolve(kind, preset=name, flags={}, images=images), images)
        stages = [(config.schedule(), ENOUGH_STEPS)]
        if isinstance(config, NCPConfig):
            stages.append((config.classifier_schedule(), FEW_STEPS))
        if isinstance(config, VQVAEConfig) and config.prior_epochs:
            stages.append((config.prior_schedule(), FEW_STEPS))
        for schedule, least in stages:
            steps = schedule.epochs * (images // schedule.batch_size)
            assert steps >= least


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
