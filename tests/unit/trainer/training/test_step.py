"""Compiled steps, with a backend that traces a step and generates no code: that would take half a minute."""

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest
import torch

from tests.fixtures import tiny_models
from tests.unit.trainer.conftest import MakeConfig
from tests.unit.trainer.resuming import assert_same
from trainer.errors import ConfigError, Interrupted
from trainer.training import step
from trainer.training.run_folder import RunFolder

Backend = Callable[[torch.fx.GraphModule, list[torch.Tensor]], Callable[..., Any]]
UseBackend = Callable[[Backend], None]


@pytest.fixture
def use_backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[UseBackend]:
    """Compiles with a backend instead of the one that generates code."""
    monkeypatch.setattr("trainer.training.tracking.metrics.plot", lambda *_, **__: None)
    yield lambda backend: monkeypatch.setattr(step, "COMPILED", {"backend": backend})
    torch.compiler.reset()


@pytest.mark.slow
def test_a_compiled_run_can_be_resumed_without_and_ends_like_one_that_never_was(
    make_config: MakeConfig, use_backend: UseBackend
) -> None:
    graphs: list[torch.fx.GraphModule] = []

    def traced(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    use_backend(traced)
    # With draws, averages, and an evaluation and pictures between the epochs.
    config = make_config(flips=True, average_decay=0.9)
    plain = tiny_models.fit(config.model_copy(update={"name": "plain"}))
    plain.begin()
    plain()
    assert not graphs
    console = tiny_models.console()
    compiled = tiny_models.fit(config.model_copy(update={"compile": True}), on=console)
    compiled.begin()
    steps: list[int] = []

    def stop(*_: object) -> None:
        steps.append(len(steps))
        if len(steps) == 10:
            os.kill(os.getpid(), signal.SIGTERM)

    compiled.optimizer.register_step_post_hook(stop)
    with pytest.raises(Interrupted):
        compiled()
    # Neither a break in the graph nor, in the second epoch, another compilation.
    assert len(graphs) == 1
    assert tiny_models.printed(console).count("compiling the step took ") == 1
    run = RunFolder.open(compiled.run.folder)
    resumed = tiny_models.fit(config, run)
    resumed.resume()
    resumed()
    assert len(graphs) == 1
    assert_same(run, plain.run)


def test_a_signal_ends_a_compilation_at_once(make_config: MakeConfig, use_backend: UseBackend) -> None:
    def interrupted(*_: object) -> NoReturn:
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the signal was only noted")

    use_backend(interrupted)
    fit = tiny_models.fit(make_config(compile=True))
    fit.begin()
    with pytest.raises(KeyboardInterrupt):
        fit()
    assert fit.run.latest_checkpoint().name == "step-00000000"


def test_a_compilation_that_fails_is_one_line(make_config: MakeConfig, use_backend: UseBackend) -> None:
    def failed(*_: object) -> NoReturn:
        raise RuntimeError("C++ compile error\n\nOutput:\nstep.cpp:2:10: fatal error: Python.h: not found\n")

    use_backend(failed)
    fit = tiny_models.fit(make_config(compile=True))
    fit.begin()
    with pytest.raises(ConfigError, match=r"cannot be compiled: step\.cpp:2:10: fatal error: .*found\. To t"):
        fit()


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="out of memory"), step.compilation_errors():
        raise torch.OutOfMemoryError("out of memory")
