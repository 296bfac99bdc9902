import re
import sys
import threading
from pathlib import Path

import pytest

from tests.fixtures.bundle_builder import edit_manifest
from tests.fixtures.toy_models import write_levels
from trainer.durable import check_replaceable, check_writable, publication, read_published
from trainer.errors import ExportError


def publish(target: Path, **files: str) -> None:
    with publication(target, replace=True) as folder:
        for name, text in files.items():
            (folder / name).write_text(text)


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture(params=["swapped in one step", "swapped in two steps"])
def target(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where to publish, on a system that can exchange two folders and on one that cannot."""
    if request.param == "swapped in two steps":
        monkeypatch.setattr(sys, "platform", "another")
    return tmp_path / "models" / "mine"


def test_a_new_folder_is_published(target: Path) -> None:
    publish(target, a="1", b="2")
    assert content(target) == {"a": "1", "b": "2"}
    assert list(target.parent.iterdir()) == [target]


def test_an_old_folder_is_replaced_as_a_whole(target: Path) -> None:
    publish(target, a="1", old="1")
    publish(target, a="2", new="2")
    assert content(target) == {"a": "2", "new": "2"}
    assert list(target.parent.iterdir()) == [target]


def test_others_may_read_what_is_published(target: Path) -> None:
    publish(target, a="1")
    assert target.stat().st_mode & 0o777 == 0o755


def test_nothing_is_seen_before_all_is_done(target: Path) -> None:
    with publication(target) as folder:
        (folder / "a").write_text("1")
        assert not target.exists()
        assert folder.parent == target.parent
        assert folder.name.startswith(".")


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_folder_and_nothing_else(target: Path, error: BaseException) -> None:
    publish(target, a="1")

    def fail() -> None:
        with publication(target) as folder:
            (folder / "a").write_text("2")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert content(target) == {"a": "1"}
    assert list(target.parent.iterdir()) == [target]


def test_a_full_disk_is_an_error_in_one_line(target: Path) -> None:
    def fail() -> None:
        with publication(target):
            raise OSError(28, "No space left on device")

    with pytest.raises(ExportError, match=r"cannot publish .*mine: No space left on device"):
        fail()
    assert list(target.parent.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux exchanges two folders in one step")
def test_a_reader_sees_the_old_or_the_new_and_never_half(tmp_path: Path) -> None:
    target = tmp_path / "mine"
    publish(target, version="0", data="0" * 10_000)
    done = threading.Event()
    errors: list[str] = []
    seen: set[int] = set()

    def read() -> None:
        while not done.is_set():
            try:
                before = (target / "version").read_text()
                data = (target / "data").read_text()
                after = (target / "version").read_text()
            except OSError as error:
                errors.append(str(error))
                return
            # Versions only rise, so one that stayed was there when the data was read.
            if before == after and data != before * 10_000:
                errors.append(f"version {before} with the data {data[:1]}, {len(data)} long")
            seen.add(int(before))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for version in range(1, 50):
            publish(target, version=str(version), data=str(version) * 10_000)
    finally:
        done.set()
        reader.join()
    assert errors == []
    assert len(seen) > 2


@pytest.mark.parametrize("action", [check_writable, publish])
def test_below_a_file_nothing_is_published(tmp_path: Path, action: object) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match=r"cannot publish into .*file.*: Not a directory"):
        action(tmp_path / "file" / "models" / "mine")  # type: ignore[operator]


@pytest.mark.skipif(not Path("/sys").is_dir(), reason="a folder that not even root may write into")
def test_where_writing_is_forbidden_nothing_is_published() -> None:
    with pytest.raises(ExportError, match=r"cannot publish into /sys/tessera: \w+"):
        check_writable(Path("/sys/tessera"))


def test_a_check_leaves_nothing_but_the_folder(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["a", "a/b"]


def test_what_is_published_can_be_read_by_other_users(target: Path) -> None:
    with publication(target) as folder:
        (folder / "a").touch(0o600)
    assert (target.stat().st_mode & 0o777, (target / "a").stat().st_mode & 0o777) == (0o755, 0o644)


def test_a_file_is_not_replaced(target: Path) -> None:
    target.parent.mkdir()
    target.write_text("precious")
    with pytest.raises(ExportError, match="it is a file"):
        publish(target, a="1")
    assert target.read_text() == "precious"
    assert list(target.parent.iterdir()) == [target]


def test_behind_a_link_the_folder_it_names_is_replaced(target: Path) -> None:
    real = target.parent / "real"
    publish(real, a="1")
    target.symlink_to(real)
    publish(target, a="2")
    assert content(real) == {"a": "2"}
    assert target.is_symlink()
    assert sorted(target.parent.iterdir()) == [target, real]


def test_what_was_published_comes_back_if_the_new_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "mine"
    publish(target, a="1")
    monkeypatch.setattr(sys, "platform", "another")
    rename = Path.rename

    def refuse(path: Path, to: Path) -> Path:
        if to == target and not path.name.endswith(".old"):
            raise OSError(5, "Input/output error")
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(ExportError, match="Input/output error"):
        publish(target, a="2")
    assert content(target) == {"a": "1"}
    assert list(tmp_path.iterdir()) == [target]


def publish_as(run: str | None, target: Path, *, replace: bool = False) -> None:
    """Publish a model with a manifest that names a run."""
    with publication(target, run, replace=replace) as folder:
        model = write_levels(folder, name=target.name)
        edit_manifest(model, run=None if run is None else {"name": f"the run {run}", "id": run})
        for file in list(model.iterdir()):
            file.rename(folder / file.name)
        model.rmdir()


def maker(target: Path) -> str | None:
    manifest = read_published(target)
    assert manifest is not None
    return None if manifest.run is None else manifest.run.id


def test_a_run_replaces_its_own_model(target: Path) -> None:
    for _ in range(2):
        publish_as("a", target)
        check_replaceable(target, "a")
    assert maker(target) == "a"


@pytest.mark.parametrize(
    ("made_by", "found"),
    [
        ("a", r"is a model of another run \(the run a, published 2026-01-01T00:00:00Z\)"),
        (None, r"is a model of another run \(version [0-9a-f]{12} of 2026-01-01T00:00:00Z\)"),
        ("nobody", "is no model"),
    ],
)
def test_the_model_of_another_run_is_replaced_only_with_replace(
    target: Path, made_by: str | None, found: str
) -> None:
    if made_by == "nobody":
        publish(target, precious="1")
    else:
        publish_as(made_by, target)
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    complaint = f"^{re.escape(str(target))} {found}: choose another name with --name, or replace it"
    with pytest.raises(ExportError, match=complaint):
        check_replaceable(target, "b")
    with pytest.raises(ExportError, match=complaint):
        publish_as("b", target)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert list(target.parent.iterdir()) == [target]
    check_replaceable(target, "b", replace=True)
    publish_as("b", target, replace=True)
    assert maker(target) == "b"


def test_what_was_published_meanwhile_is_not_replaced(target: Path) -> None:
    check_replaceable(target, "a")
    with (
        pytest.raises(ExportError, match=r"is a model of another run \(the run b, "),
        publication(target, "a"),
    ):
        publish_as("b", target)
    assert maker(target) == "b"
    assert list(target.parent.iterdir()) == [target]


def test_an_empty_folder_is_free(target: Path) -> None:
    target.mkdir(parents=True)
    publish_as("a", target)
    assert maker(target) == "a"
