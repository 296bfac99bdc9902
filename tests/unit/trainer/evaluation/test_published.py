import shutil
from pathlib import Path

import pytest

from service.contract.manifest import Run
from tests.fixtures.bundle_builder import edit_manifest
from tests.fixtures.tiny_models import Trained
from trainer.errors import DataError, ExportError, RunError
from trainer.evaluation.published import Published
from trainer.training.run_folder import RunFolder


@pytest.fixture
def home(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a run was trained with the folders that apply by default, and its model published."""
    shutil.copytree(trained.run.folder, tmp_path / "runs" / "tiny")
    shutil.copytree(trained.exported.folder, tmp_path / "exported" / "tiny")
    monkeypatch.chdir(tmp_path)
    run = RunFolder.open(Path("runs/tiny"))
    run.configure(run.config.model_copy(update={"export_to": Path("exported")}))
    return tmp_path


@pytest.mark.parametrize("path", ["runs/tiny", "exported/tiny"])
def test_a_model_is_found_by_its_folder_and_by_that_of_its_run(
    trained: Trained, home: Path, path: str
) -> None:
    found = Published.find(Path(path))
    assert found.folder == Path("exported/tiny")
    assert found.manifest == trained.exported.manifest
    assert found.data(None) == trained.config.data


def test_the_run_is_found_from_elsewhere(
    trained: Trained, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert Published.find(home / "exported" / "tiny").data(None) == trained.config.data
    assert Published.find(home / "runs" / "tiny").folder == home / "exported" / "tiny"


def test_data_that_is_not_here_is_asked_for(home: Path) -> None:
    run = RunFolder.open(Path("runs/tiny"))
    run.configure(run.config.model_copy(update={"data": "/gone/emoji"}))
    with pytest.raises(DataError) as caught:
        Published.find(Path("exported/tiny")).data(None)
    expected = "tiny was trained on '/gone/emoji', which is not found here: say where it is with --data"
    assert str(caught.value) == expected


def test_without_its_run_a_model_has_the_name_of_its_data_alone(home: Path) -> None:
    edit_manifest(Path("exported/tiny"), run=Run(name="tiny", id="another").model_dump())
    manifest = Published.find(Path("exported/tiny")).manifest
    edit_manifest(Path("exported/tiny"), config=manifest.config | {"data": "mine"})
    found = Published.find(Path("exported/tiny"))
    with pytest.raises(DataError, match=r"'mine', which is not found .*--data, or give the run"):
        found.data(None)
    assert found.data("mnist") == "mnist"


def test_data_that_is_given_is_the_one_complained_of(home: Path) -> None:
    with pytest.raises(DataError, match="there is no data 'absent/emoji'"):
        Published.find(Path("exported/tiny")).data("absent/emoji")


def test_a_run_that_published_nothing_says_how_to(home: Path) -> None:
    shutil.rmtree("exported")
    with pytest.raises(RunError, match=r"To publish it: python -m trainer export runs/tiny$"):
        Published.find(Path("runs/tiny"))


def test_the_model_of_another_run_is_not_taken_for_it(home: Path) -> None:
    edit_manifest(Path("exported/tiny"), run=Run(name="tiny", id="another").model_dump())
    with pytest.raises(RunError, match=r"exported/tiny is no model of runs/tiny"):
        Published.find(Path("runs/tiny"))


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("exported/tinny", r"exported/tinny does not exist\. Did you mean 'exported/tiny'\?"),
        ("/nowhere", r"/nowhere does not exist\.$"),
        ("exported", r"exported is no model and no run folder: it has no manifest\.json and no config\.yaml"),
    ],
)
def test_what_is_no_model_is_refused(home: Path, path: str, complaint: str) -> None:
    with pytest.raises(ExportError, match=complaint):
        Published.find(Path(path))
