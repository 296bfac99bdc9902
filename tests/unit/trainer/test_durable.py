import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from trainer import durable


class Crash(BaseException):
    """The end of the process: nobody catches it, and nothing is tidied up."""


def write(target: Path, text: str) -> None:
    with durable.written(target) as folder:
        for name in ("a", "b"):
            (folder / name).write_text(text)


def content(folder: Path) -> set[str]:
    return {(folder / name).read_text() for name in ("a", "b")}


def crash_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Crash before the call of this number of what changes a disk; returns how many there were."""
    calls = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == step:
                raise Crash
            return real(*arguments, **named)

        return call

    for module, name in ((os, "fsync"), (os, "unlink"), (os, "rmdir"), (os, "mkdir"), (os, "rename")):
        monkeypatch.setattr(module, name, counted(getattr(module, name)))
    return lambda: calls


def steps_of(action: Callable[[], None]) -> int:
    with pytest.MonkeyPatch.context() as patch:
        count = crash_at(0, patch)
        action()
        return count()


def crashes(step: int, action: Callable[[], None]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        crash_at(step, patch)
        with pytest.raises(Crash):
            action()


def test_a_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "runs" / "step-1"
    with durable.written(target) as folder:
        (folder / "a").write_text("1")
        assert durable.whole(target.parent, "step-*") == []
    assert (target / "a").read_text() == "1"
    assert [path.name for path in target.parent.iterdir()] == ["step-1"]


def test_a_crash_at_any_step_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tmp_path / "none" / "step-1"
    write(first, "old")
    steps = steps_of(lambda: write(first, "new"))
    assert steps > 8
    seen = set()
    for step in range(1, steps + 1):
        target = tmp_path / str(step) / "step-1"
        write(target, "old")
        crashes(step, partial(write, target, "new"))
        (whole,) = durable.whole(target.parent, "step-*")
        assert content(whole) in ({"old"}, {"new"}), step
        seen |= content(whole)
        # Who goes on finds nothing in the way, and what was left is gone.
        durable.tidy(target.parent, "step-*")
        (kept,) = target.parent.iterdir()
        assert (kept, content(kept)) == (target, content(target))
        write(target, "newer")
        assert [path.name for path in target.parent.iterdir()] == ["step-1"]
        assert content(target) == {"newer"}
    assert seen == {"old", "new"}


def test_a_crash_while_one_is_deleted_leaves_it_or_nothing(tmp_path: Path) -> None:
    write(tmp_path / "none" / "step-1", "1")
    steps = steps_of(lambda: durable.delete(tmp_path / "none" / "step-1"))
    assert steps > 2
    for step in range(1, steps + 1):
        target = tmp_path / str(step) / "step-1"
        write(target, "1")
        crashes(step, partial(durable.delete, target))
        assert all(content(whole) == {"1"} for whole in durable.whole(target.parent, "step-*"))
        durable.tidy(target.parent, "step-*")
        assert all(path == target for path in target.parent.iterdir())


def test_a_crash_while_it_is_tidied_loses_nothing(tmp_path: Path) -> None:
    def left(folder: Path) -> Path:
        """What a crash leaves that came when the old folder had just made room."""
        write(folder / "step-1", "old")
        (folder / "step-1").rename(folder / ".step-1.old")
        shutil.copytree(folder / ".step-1.old", folder / ".step-1")
        return folder

    steps = steps_of(partial(durable.tidy, left(tmp_path / "none"), "step-*"))
    for step in range(1, steps + 1):
        folder = left(tmp_path / str(step))
        crashes(step, partial(durable.tidy, folder, "step-*"))
        assert [content(whole) for whole in durable.whole(folder, "step-*")] == [{"old"}]


def test_an_error_leaves_the_old(tmp_path: Path) -> None:
    target = tmp_path / "step-1"
    write(target, "old")

    def fail() -> None:
        with durable.written(target) as folder:
            (folder / "a").write_text("half")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        fail()
    assert durable.whole(tmp_path, "step-*") == [target]
    assert content(target) == {"old"}


def test_all_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, events = tmp_path / "step-1", list[str]()
    fsync, rename = os.fsync, os.rename

    def noted(descriptor: int) -> None:
        events.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def renamed(source: Path, target: Path, **named: Any) -> None:
        events.append(f"{Path(source).name} to {Path(target).name}")
        rename(source, target, **named)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "rename", renamed)
    write(target, "1")
    assert sorted(events[:2]) == ["a", "b"]
    assert events[2:] == [".step-1", ".step-1 to step-1", tmp_path.name]
