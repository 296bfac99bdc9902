from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from service.contract.manifest import ImageSpec
from tests.fixtures import tiny_models
from trainer.config.base import cropped_spec
from trainer.data.batches import Batches, ResidentSplit
from trainer.data.sources.pictures import OnProgress
from trainer.errors import RunError
from trainer.models.losses import learned_features as module
from trainer.models.losses.added import AddedLosses
from trainer.models.losses.feature_network import FeatureNetwork
from trainer.models.losses.learned_features import FILE, learned_features

RGB_16 = ImageSpec(channels=3, height=16, width=16)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEPS", 2)
    monkeypatch.setattr(module, "BATCH_SIZE", 4)


class Learning:
    """Learns features, or reads those of another run, and counts how often it learns."""

    def __init__(self) -> None:
        self.times = 0

    @contextmanager
    def step(self, what: str) -> Iterator[OnProgress]:
        self.times += what.startswith("learning")
        yield lambda _done, _total: None

    def __call__(self, folder: Path, count: int = 6, side: int = 8, seed: int = 0) -> FeatureNetwork:
        folder.mkdir(exist_ok=True)
        split = ResidentSplit(tiny_models.images(count, channels=3, height=side, width=side), None)
        return learned_features(3, 0, Batches(split, 4, seed=seed), folder, self.step)


def same(one: FeatureNetwork, other: FeatureNetwork) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_a_run_learns_once_and_keeps_what_it_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    learning, before = Learning(), torch.get_rng_state()
    first = learning(tmp_path / "run")
    # What is drawn for it does not change what is trained, nor on a GPU.
    assert torch.equal(torch.get_rng_state(), before)
    assert not seeded
    assert same(learning(tmp_path / "run"), first)
    assert learning.times == 1
    assert [path.name for path in (tmp_path / "run").iterdir()] == [FILE]
    with safe_open(tmp_path / "run" / FILE, framework="pt") as opened:
        assert '"turn": ' in opened.metadata()["right"]


def test_another_run_on_the_same_images_takes_it(tmp_path: Path) -> None:
    learning = Learning()
    first = learning(tmp_path / "one")
    assert same(learning(tmp_path / "two"), first)
    assert learning.times == 1
    # It is in the second folder too, which may outlive the first.
    (tmp_path / "one" / FILE).unlink()
    assert same(learning(tmp_path / "two"), first)
    assert learning.times == 1


@pytest.mark.parametrize("changes", [{"count": 5}, {"side": 16}, {"seed": 1}])
def test_other_images_and_another_order_have_another_network(tmp_path: Path, changes: dict[str, int]) -> None:
    learning = Learning()
    first = learning(tmp_path / "one")
    assert not same(learning(tmp_path / "two", **changes), first)
    # A run that is resumed keeps its own.
    assert same(learning(tmp_path / "one", **changes), first)
    assert learning.times == 2


def test_the_squares_that_a_model_is_trained_on_do_not_matter(tmp_path: Path) -> None:
    learning = Learning()
    split = ResidentSplit(tiny_models.images(6, channels=3, height=16, width=16), None)
    for name, crop in (("one", 8), ("two", None)):
        (tmp_path / name).mkdir()
        config = tiny_models.config(perceptual="self", crop=crop)
        losses = AddedLosses(config, cropped_spec(RGB_16, crop, 4), 0)
        losses.prepare(Batches(split, 4), tmp_path / name, learning.step)
    assert learning.times == 1


def test_the_file_of_another_network_is_an_error(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / FILE)
    with pytest.raises(RunError, match=f"{FILE} cannot be read: it has the tensors of another network; "):
        Learning()(tmp_path)


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no tensors")
    with pytest.raises(RunError, match=f"{FILE} cannot be read: .*; delete it to have it made again"):
        Learning()(tmp_path)
