from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from service.contract.manifest import ImageSpec
from tests.fixtures import tiny_models
from trainer.data.batches import Batches, ResidentSplit
from trainer.data.sources.pictures import OnProgress
from trainer.errors import RunError
from trainer.models.losses import learned_features as module
from trainer.models.losses.feature_network import FeatureNetwork
from trainer.models.losses.learned_features import FILE, learned_features

RGB_8 = ImageSpec(channels=3, height=8, width=8)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEPS", 2)
    monkeypatch.setattr(module, "BATCH_SIZE", 4)


class Learning:
    """Learns features, or reads those of an earlier run, and counts how often it learns."""

    def __init__(self) -> None:
        self.times = 0

    @contextmanager
    def step(self, _what: str) -> Iterator[OnProgress]:
        self.times += 1
        yield lambda _done, _total: None

    def __call__(self, folder: Path, **changes: Any) -> FeatureNetwork:
        folder.mkdir(exist_ok=True)
        split = ResidentSplit(tiny_models.images(6, channels=3, height=8, width=8), None)
        config = tiny_models.config(**changes)
        return learned_features(config, RGB_8, 0, Batches(split, 4), folder, self.step)


def same(one: FeatureNetwork, other: FeatureNetwork) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_a_run_learns_once_and_keeps_what_it_learned(tmp_path: Path) -> None:
    learning, before = Learning(), torch.get_rng_state()
    first = learning(tmp_path / "run")
    # What is drawn for it does not change what is trained.
    assert torch.equal(torch.get_rng_state(), before)
    assert same(learning(tmp_path / "run"), first)
    assert learning.times == 1
    assert [path.name for path in (tmp_path / "run").iterdir()] == [FILE]
    with safe_open(tmp_path / "run" / FILE, framework="pt") as opened:
        assert '"turn": ' in opened.metadata()["right"]


def test_another_run_on_the_same_data_takes_it_and_on_other_data_does_not(tmp_path: Path) -> None:
    learning = Learning()
    first = learning(tmp_path / "one")
    assert same(learning(tmp_path / "two", lr=0.5), first)
    assert learning.times == 1
    # It is in the second folder too, which may outlive the first.
    (tmp_path / "one" / FILE).unlink()
    assert same(learning(tmp_path / "two"), first)
    learning(tmp_path / "three", limit=5)
    assert learning.times == 2


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no tensors")
    with pytest.raises(RunError, match=f"{FILE} cannot be read: .*; delete it to have it made again"):
        Learning()(tmp_path)
