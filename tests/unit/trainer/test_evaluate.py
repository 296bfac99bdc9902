import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from service.contract.manifest import FILE_NAME, Manifest, Measures, content_version
from tests.fixtures import tiny_models
from tests.fixtures.tiny_models import Trained
from trainer import evaluate as module
from trainer.__main__ import main
from trainer.errors import ConfigError, DataError, ExportError
from trainer.evaluate import evaluate
from trainer.evaluation.exported_model import file_entries
from trainer.evaluation.published import SamplerParameters, sampler_parameters
from trainer.evaluation.reconstructions import TRAINING
from trainer.evaluation.results import Effort
from trainer.export.model_card import CARD

EFFORT = Effort(samples=20)
GREEDY = {"autoregressive": {"top_k": 1.0}}


@pytest.fixture
def folder(generating: Trained, tmp_path: Path) -> Path:
    """A copy of a published model that has a prior."""
    return shutil.copytree(generating.exported.folder, tmp_path / "exported" / "tiny")


def read(folder: Path) -> Manifest:
    return Manifest.model_validate_json((folder / FILE_NAME).read_text())


def change(folder: Path, **changes: Any) -> None:
    manifest = read(folder).model_copy(update=changes)
    (folder / FILE_NAME).write_text(manifest.model_dump_json())


def measured(
    folder: Path, digits: Path, given: SamplerParameters | None = None, *, write: bool = False
) -> Manifest:
    return evaluate(folder, str(digits), EFFORT, given or {}, tiny_models.console(), write=write)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)], prog_name="python -m trainer")


def test_the_figures_are_written_and_the_graphs_stay(folder: Path, digits: Path) -> None:
    before, files = read(folder), contents(folder)
    returned = measured(folder, digits, write=True)
    after = read(folder)
    assert after.measures == returned.measures
    rows = ["reconstructions", "real images", "sample/autoregressive", "training"]
    assert [row.of for row in after.measures] == rows
    # It cannot be measured again.
    assert after.measures[-1] == before.measures[-1]
    assert after.version == before.version == content_version(after.files)
    assert after.files == {name: entry for name, entry in file_entries(folder).items() if name != FILE_NAME}
    changed = {name for name, content in contents(folder).items() if files[name] != content}
    assert changed == {FILE_NAME, CARD}
    same: dict[str, Any] = {"measures": (), "files": {}}
    assert after.model_copy(update=same) == before.model_copy(update=same)
    card = (folder / CARD).read_text()
    assert f"{after.measures[2].values['mnist_fd']:.5g}" in card
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


@pytest.mark.slow
def test_measuring_twice_is_the_same(folder: Path, digits: Path) -> None:
    first = measured(folder, digits, write=True)
    assert measured(folder, digits).measures == first.measures


@pytest.mark.slow
def test_the_settings_go_to_their_method(folder: Path, digits: Path) -> None:
    plain, greedy = (measured(folder, digits, given).measures for given in ({}, GREEDY))
    assert plain[:2] == greedy[:2]
    assert plain[2] != greedy[2]


def test_nothing_is_written_unless_it_is_asked_for(folder: Path, digits: Path) -> None:
    files = contents(folder)
    measured(folder, digits)
    assert contents(folder) == files


def test_what_the_second_stage_measured_on_these_images_is_kept(folder: Path, digits: Path) -> None:
    row = read(folder).measures[0]
    change(folder, measures=(row.model_copy(update={"values": {**row.values, "mse": 9.0}}),))
    values = measured(folder, digits).measures[0].values
    assert values["bits"] == row.values["bits"]
    assert values["mse"] == pytest.approx(row.values["mse"])


@pytest.mark.parametrize("other", [{"dataset": "letters"}, {"images": 99}])
def test_what_was_measured_on_other_images_is_not_kept(
    folder: Path, digits: Path, other: dict[str, object]
) -> None:
    row = read(folder).measures[0]
    assert "bits" in row.values
    change(folder, measures=(row.model_copy(update=other),))
    assert "bits" not in measured(folder, digits).measures[0].values


@pytest.mark.parametrize("file", ["encoder.onnx", "preview.png"])
def test_a_folder_that_is_not_what_its_manifest_says_is_refused(
    folder: Path, digits: Path, file: str
) -> None:
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ExportError, match=rf"{file} has been altered: it is not the file in the manifest"):
        measured(folder, digits, write=True)
    (folder / file).unlink()
    with pytest.raises(ExportError, match=rf"{file} is missing: "):
        measured(folder, digits, write=True)


def test_an_edited_card_is_written_anew(folder: Path, digits: Path) -> None:
    (folder / CARD).write_text("mine")
    measured(folder, digits, write=True)
    assert (folder / CARD).read_text().startswith("# tiny\n")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_figure_that_is_no_number_is_not_written(
    folder: Path, digits: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    row = Measures(of="sample/chain", dataset="mnist", split="training", images=1, values={"energy": value})
    monkeypatch.setattr(module, "sample_rows", lambda *_: iter([row]))
    files = contents(folder)
    with pytest.raises(ExportError, match=rf"energy of sample/chain is {value}, so nothing is written"):
        measured(folder, digits, write=True)
    assert contents(folder) == files


def test_images_of_another_kind_are_refused(folder: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index in range(4):
        pixels = np.random.default_rng(index).integers(0, 256, (28, 28, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(pictures / f"{index}.png")
    with pytest.raises(DataError, match=r"are 28x28x3, those of tiny 28x28x1"):
        measured(folder, pictures)


def test_settings_are_read() -> None:
    assert sampler_parameters(["a.steps=3", "a.size=0.5", "b-c.steps=1e2"]) == {
        "a": {"steps": 3.0, "size": 0.5},
        "b-c": {"steps": 100.0},
    }


@pytest.mark.parametrize("text", ["a.steps", "a.steps=", "a.steps=many", ""])
def test_a_setting_of_another_form_says_the_right_one(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--set takes METHOD\.NAME=NUMBER, not "):
        sampler_parameters([text])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "autoregresive.top_k=1",
            r"no method 'autoregresive' to set; there are autoregressive\. Did you mean",
        ),
        ("top_k=1", r"no method 'top_k' to set"),
        ("autoregressive.topk=1", r"autoregressive has no parameter 'topk'; it has .*Did you mean 'top_k'\?"),
        ("autoregressive.top_k=1.5", r"autoregressive\.top_k is int64 in .*, not 1\.5"),
        ("autoregressive.temperature=-1", r"autoregressive\.temperature is float32 in .*, not -1"),
        ("autoregressive.temperature=nan", r"autoregressive\.temperature is float32 in .*, not nan"),
    ],
)
def test_a_setting_that_the_model_does_not_have_is_an_error(
    folder: Path, digits: Path, text: str, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        measured(folder, digits, sampler_parameters([text]))


@pytest.mark.slow
def test_json_is_all_there_is_on_stdout(folder: Path, digits: Path) -> None:
    result = run(folder, "--json", "--data", digits, "--samples", "20", "--no-write")
    assert result.exit_code == 0
    rows = [Measures.model_validate(row) for row in json.loads(result.stdout)]
    assert tuple(rows) == measured(folder, digits).measures


@pytest.mark.slow
def test_the_command_shows_every_row_and_says_where_it_wrote(folder: Path, digits: Path) -> None:
    result = run(folder, "--data", digits, "--samples", "20", "--set", "autoregressive.top_k=1")
    assert result.exit_code == 0
    after = read(folder)
    for row in after.measures:
        # How it was trained is kept, and was not measured.
        if row.of == TRAINING:
            continue
        assert f"{row.of}: mnist, {row.split} split, {row.images} images: " in result.stdout
    assert f"written into {folder}" in result.stdout
    assert after.measures == measured(folder, digits, GREEDY).measures


def test_the_command_tells_of_mistakes_in_a_line(folder: Path, tmp_path: Path) -> None:
    result = run(tmp_path)
    assert result.exit_code == 1
    complaint = "is no model and no run folder: it has no manifest.json and no config.yaml"
    assert result.stderr == f"error: {tmp_path} {complaint}\n"
    assert run(folder, "--samples", "1000000").exit_code == 2
