import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from tests.fixtures import tiny_models
from trainer.errors import ConfigError, RunError
from trainer.training.run_folder import RunFolder


def create(out: Path, name: str = "tiny") -> RunFolder:
    return RunFolder.create(tiny_models.config(out=out, name=name), {"dataset": "mnist"})


def test_a_run_folder_says_what_it_is(tmp_path: Path) -> None:
    run = create(tmp_path)
    opened = RunFolder.open(tmp_path / "tiny")
    assert opened.config == run.config
    assert opened.facts["dataset"] == "mnist"
    assert opened.facts["started"].startswith("20")


def test_a_run_goes_on_wherever_it_was_moved(tmp_path: Path) -> None:
    shutil.move(create(tmp_path / "here").folder.parent, tmp_path / "there")
    run = RunFolder.latest(tmp_path / "there", "tiny")
    assert run.changed("vqvae", {"out": tmp_path / "there"}).out == run.folder.parent


def test_a_run_is_known_by_its_name_inside_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(create(tmp_path).folder)
    run = RunFolder.open(Path())
    assert (run.identity.name, run.config.out) == ("tiny", tmp_path)


def test_a_second_run_of_a_name_overwrites_nothing(tmp_path: Path) -> None:
    assert [create(tmp_path).folder.name for _ in range(3)] == ["tiny", "tiny-2", "tiny-3"]


def test_the_latest_run_is_the_one_with_the_highest_number(tmp_path: Path) -> None:
    for _ in range(11):
        create(tmp_path)
    (tmp_path / "tiny-99").mkdir()
    assert RunFolder.latest(tmp_path, "tiny").folder.name == "tiny-11"


def test_a_name_that_ends_in_a_number_is_another_name(tmp_path: Path) -> None:
    create(tmp_path)
    create(tmp_path, "tiny-7")
    assert RunFolder.latest(tmp_path, "tiny").folder.name == "tiny"
    assert RunFolder.latest(tmp_path, "tiny-7").folder.name == "tiny-7"


def numbered(folder: Path) -> RunFolder:
    config = tiny_models.config(out=folder / "runs", export_to=folder / "exported")
    return RunFolder.create(config, {}, numbered=True)


def test_a_numbered_run_has_a_name_that_no_run_and_no_model_has(tmp_path: Path) -> None:
    (tmp_path / "exported" / "tiny").mkdir(parents=True)
    create(tmp_path / "runs", "tiny-3")
    runs = [numbered(tmp_path) for _ in range(2)]
    assert [(run.folder.name, run.config.name) for run in runs] == [("tiny-2",) * 2, ("tiny-4",) * 2]
    assert RunFolder.open(runs[1].folder).config.name == "tiny-4"


def test_a_numbered_run_is_resumed_by_the_name_it_was_begun_with(tmp_path: Path) -> None:
    (tmp_path / "exported" / "tiny").mkdir(parents=True)
    run = numbered(tmp_path)
    create(tmp_path / "runs", "tiny-9")
    assert RunFolder.latest(tmp_path / "runs", "tiny", numbered=True).folder == run.folder
    assert RunFolder.latest(tmp_path / "runs", "tiny-2").folder == run.folder
    with pytest.raises(RunError, match="holds no run named 'tiny'"):
        RunFolder.latest(tmp_path / "runs", "tiny")


def test_no_two_runs_are_the_same(tmp_path: Path) -> None:
    runs = [create(tmp_path) for _ in range(2)]
    assert runs[0].identity != runs[1].identity
    assert RunFolder.open(runs[0].folder).identity == runs[0].identity


@pytest.mark.parametrize("out", ["", "nowhere"])
def test_nothing_to_resume_is_an_error(tmp_path: Path, out: str) -> None:
    create(tmp_path, "other")
    with pytest.raises(RunError, match=r"nothing to resume: .* holds no run named 'tiny'"):
        RunFolder.latest(tmp_path / out, "tiny")


def test_a_changed_config_is_written_down(tmp_path: Path) -> None:
    run = create(tmp_path)
    run.configure(run.config.model_copy(update={"epochs": 9}))
    assert run.config.epochs == RunFolder.open(run.folder).config.epochs == 9


@pytest.mark.parametrize("below", ["file", "dangling"])
def test_a_place_where_nothing_can_be_made_is_an_error(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    with pytest.raises(RunError, match="cannot make the run folder"):
        create(tmp_path / below)


def test_a_run_folder_that_is_not_finished_gives_its_name_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Path, *__: object, **___: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(RunError, match=r"cannot write into .*: No space left on device"):
        create(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ("kind: vqvea", "unknown kind 'vqvea'. Did you mean 'vqvae'?"),
        ("", "unknown kind 'None'"),
        ("{kind: vqvae, name: x, widht: 8}", "no key 'widht'. Did you mean 'width'?"),
        ("{kind: vqvae, name: x, width: 1}", "width is 1"),
        ("kind: [", "is no YAML"),
        ("{kind: vqvae, width: big}", "name is missing; width is 'big': input should be a valid integer"),
    ],
)
def test_a_folder_with_a_bad_config_is_an_error(tmp_path: Path, config: str, complaint: str) -> None:
    (tmp_path / "config.yaml").write_text(config)
    with pytest.raises((RunError, ConfigError)) as caught:
        RunFolder.open(tmp_path)
    assert complaint in str(caught.value)
    assert "default" not in str(caught.value)
    assert "--config" not in str(caught.value)


def test_another_folder_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is no run folder: it has no config\.yaml"):
        RunFolder.open(tmp_path)


@pytest.mark.parametrize("content", [None, "{", "[1]", "{}"])
def test_damaged_facts_are_an_error(tmp_path: Path, content: str | None) -> None:
    run = create(tmp_path)
    (run.folder / "run.json").unlink()
    if content is not None:
        (run.folder / "run.json").write_text(content)
    with pytest.raises(RunError, match=r"run\.json cannot be read"):
        _ = run.facts


def test_records_are_kept_line_by_line(tmp_path: Path) -> None:
    run = create(tmp_path)
    assert run.records() == []
    records = [{"epoch": epoch, "loss": 1 / epoch} for epoch in (1, 2, 3)]
    for record in records:
        run.log(record)
    assert run.records() == records
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == records


def test_rewinding_forgets_what_came_after(tmp_path: Path) -> None:
    run = create(tmp_path)
    for epoch in (1, 2, 3):
        run.log({"epoch": epoch})
    run.rewind(2)
    assert run.records() == [{"epoch": 1}, {"epoch": 2}]
    run.log({"epoch": 3})
    assert [record["epoch"] for record in run.records()] == [1, 2, 3]


def test_half_a_line_is_left_out(tmp_path: Path) -> None:
    run = create(tmp_path)
    run.log({"epoch": 1})
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "lo')
    assert run.records() == [{"epoch": 1}]


def test_damaged_records_are_an_error(tmp_path: Path) -> None:
    run = create(tmp_path)
    (run.folder / "metrics.jsonl").write_text("\0\0\n")
    with pytest.raises(RunError, match=r"metrics\.jsonl cannot be read"):
        run.records()


def test_the_latest_checkpoint_is_the_last_step(tmp_path: Path) -> None:
    run = create(tmp_path)
    with pytest.raises(RunError, match="holds no checkpoint"):
        run.latest_checkpoint()
    for name in ("step-00000009", "step-00000010", ".step-00000011"):
        (run.checkpoints / name).mkdir(parents=True)
    assert run.latest_checkpoint().name == "step-00000010"


def test_a_further_stage_has_a_folder_of_its_own(tmp_path: Path) -> None:
    run = create(tmp_path)
    stage = run.stage("prior")
    assert (stage.folder, stage.config) == (run.folder / "prior", run.config)
    assert stage.title == "tiny-prior"
    assert not stage.folder.exists()
    run.log({"epoch": 1})
    assert stage.records() == []
    with pytest.raises(RunError, match=r"prior holds no checkpoint"):
        stage.latest_checkpoint()


def test_a_stage_is_begun_with_its_first_checkpoint(tmp_path: Path) -> None:
    run = create(tmp_path)
    stage = run.stage("prior")
    assert (run.begun, run.has_later_stage, stage.begun) == (False, False, False)
    (run.checkpoints / "step-00000000").mkdir(parents=True)
    assert (run.begun, run.has_later_stage, stage.begun) == (True, False, False)
    # An unfinished one is none.
    (stage.checkpoints / ".step-00000000").mkdir(parents=True)
    assert (run.has_later_stage, stage.begun) == (False, False)
    (stage.checkpoints / "step-00000000").mkdir()
    assert (run.has_later_stage, stage.begun, stage.has_later_stage) == (True, True, False)


def test_the_folder_of_a_stage_is_no_run(tmp_path: Path) -> None:
    run = create(tmp_path)
    (run.stage("prior").checkpoints / "step-00000000").mkdir(parents=True)
    with pytest.raises(RunError, match="prior is no run folder"):
        RunFolder.open(run.folder / "prior")
    assert RunFolder.latest(tmp_path, "tiny").folder == run.folder
