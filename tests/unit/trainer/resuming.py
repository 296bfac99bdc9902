"""Runs that were interrupted and resumed, compared with runs that were not."""

import signal

import pytest
import torch

from tests.fixtures import tiny_models
from trainer.config import RunConfig
from trainer.errors import Interrupted
from trainer.models.base import Stage
from trainer.training.run_folder import RunFolder


def assert_resumes_as_unbroken(
    config: RunConfig, step: int, stage: type[Stage], monkeypatch: pytest.MonkeyPatch
) -> RunFolder:
    """Interrupt a run of a model of the class ``stage`` in a step, and resume it; the resumed run."""
    unbroken = tiny_models.fit(config.model_copy(update={"name": "unbroken"}))
    unbroken.begin()
    unbroken()
    interrupted = tiny_models.fit(config)
    interrupted.begin()
    with monkeypatch.context() as patch:
        tiny_models.signal_in_step(patch, step, signal.SIGTERM, stage)
        with pytest.raises(Interrupted):
            interrupted()
    run = RunFolder.open(interrupted.run.folder)
    assert run.latest_checkpoint().name == f"step-{step:08d}"
    # The checkpoint has the state of the random generators.
    torch.manual_seed(12345)
    resumed = tiny_models.fit(config, run)
    resumed.resume()
    resumed()
    assert_same(run, unbroken.run, averaged=config.average_decay > 0)
    return run


def assert_same(run: RunFolder, other: RunFolder, *, averaged: bool = True) -> None:
    """Both runs have the same metrics and, in their latest checkpoints, the same weights."""
    assert tiny_models.figures(run) == tiny_models.figures(other)
    here, there = run.latest_checkpoint(), other.latest_checkpoint()
    assert here.name == there.name
    files = {"model.safetensors", *(["average.safetensors"] if averaged else [])}
    for checkpoint in (here, there):
        assert {path.name for path in checkpoint.glob("*.safetensors")} == files
    for file in files:
        assert (here / file).read_bytes() == (there / file).read_bytes()
