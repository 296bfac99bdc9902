import hashlib
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image

from service.contract.image_preprocessing import prepare
from service.contract.manifest import FILE_NAME, Manifest, Measures, content_version
from tests.fixtures import tiny_models
from tests.fixtures.tiny_models import Trained
from tests.fixtures.trainer_command import trainer
from trainer import evaluate as module
from trainer.errors import ConfigError, ExportError
from trainer.evaluate import evaluate
from trainer.evaluation.exported_model import file_entries
from trainer.evaluation.published import FidWeights, SamplerParameters, sampler_parameters
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
    folder: Path,
    data: Path,
    given: SamplerParameters | None = None,
    *,
    write: bool = False,
    weights: FidWeights | None = None,
    **effort: Any,
) -> Manifest:
    on = tiny_models.console()
    return evaluate(
        folder, str(data), replace(EFFORT, **effort), given or {}, on, write=write, weights=weights
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run(*arguments: str | Path) -> Result:
    return trainer("evaluate", *arguments)


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


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Ten pictures in colour, of several sizes."""
    made = tmp_path / "pictures"
    made.mkdir()
    for index in range(10):
        pixels = np.random.default_rng(index).integers(0, 256, (40 + index, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(made / f"{index}.png")
    return made


def test_any_pictures_are_made_to_fit_as_the_service_does(folder: Path, pictures: Path) -> None:
    row, *_ = measured(folder, pictures).measures
    # What is held out: it could be the data that the model was trained on.
    assert (row.dataset, row.split, row.images) == ("pictures", "test", 1)
    everything, *_ = measured(folder, pictures, split="all").measures
    assert (everything.split, everything.images) == ("all", 10)
    assert everything.settings["size"] == "28x28x1"
    spec = read(folder).image
    files = sorted(pictures.iterdir())
    pixels = np.stack([prepare(Image.open(file), spec) for file in files])
    assert everything.settings["pixels"] == hashlib.sha256(pixels.tobytes()).hexdigest()


def test_an_imported_model_is_measured_on_all_pictures_that_are_given(folder: Path, pictures: Path) -> None:
    change(folder, config={"checkpoint": {"file": "model"}, "data": "drawn pictures"}, run=None, measures=())
    after = measured(folder, pictures, write=True)
    assert [(row.of, row.split, row.images) for row in after.measures] == [("reconstructions", "all", 10)]
    card = (folder / CARD).read_text()
    assert f"protocol `{after.measures[0].protocol}`" in card
    assert "28x28x1" in card
    result = run(folder, "--no-write")
    assert result.exit_code == 1
    assert result.stderr == (
        "error: it is not known what tiny was trained on: evaluate takes pictures with --data, "
        "reconstruct with --image\n"
    )


@pytest.mark.slow
def test_the_protocol_follows_from_the_images_and_the_metrics(folder: Path, pictures: Path) -> None:
    def protocol(**effort: Any) -> str | None:
        return measured(folder, pictures, split="all", **effort).measures[0].protocol

    whole = protocol()
    assert whole is not None
    assert protocol() == whole
    others = [protocol(images=4), protocol(image_size=32)]
    (pictures / "3.png").unlink()
    assert len({whole, protocol(), *others}) == 4


def test_another_size_is_one_that_the_model_takes(folder: Path, pictures: Path) -> None:
    row, *_ = measured(folder, pictures, split="all", image_size=32).measures
    assert row.settings["size"] == "32x32x1"
    # Those of the prior are of the native size.
    assert "bits" not in row.values
    with pytest.raises(ConfigError, match=r"--image-size is 30, but tiny takes 28x28 and multiples of 4"):
        measured(folder, pictures, image_size=30)
    change(folder, image=read(folder).image.model_copy(update={"multiple_of": None}))
    with pytest.raises(ConfigError, match=r"--image-size is 32, but tiny takes 28x28 and no other size"):
        measured(folder, pictures, image_size=32)


def test_fid_takes_a_file_of_a_known_sha256(folder: Path, digits: Path, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    file.write_bytes(b"weights")
    sha256 = hashlib.sha256(b"weights").hexdigest()
    asked = (folder, "--data", digits, "--no-write", "--fid-weights", file)
    for more, complaint in (
        ((), f"has the sha256 {sha256}, which is not that of pt_inception-2015-12-05-6726825d.pth"),
        (("--fid-weights-sha256", "0" * 64), f"has the sha256 {sha256}, not {'0' * 64}"),
        (("--fid-weights-sha256", sha256), "is no file of tensors that torch reads"),
    ):
        result = run(*asked, *more)
        assert result.exit_code == 1
        assert result.stderr.startswith(f"error: --fid-weights {file} {complaint}")
        assert result.stderr.count("\n") == 1
    assert "cannot be read: No such file" in run(*asked[:-1], tmp_path / "none").stderr


@pytest.mark.slow
def test_rfid_stands_beside_the_sha256_of_its_weights(
    folder: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.evaluation.inception._read", lambda _: {})
    monkeypatch.setattr("trainer.evaluation.inception.Inception", lambda _: Levels())
    weights = FidWeights(Path("any"), "ab" * 32)
    plain, *_ = measured(folder, pictures, split="all").measures
    row, *_ = measured(folder, pictures, split="all", weights=weights, write=True).measures
    assert row.values["rfid"] > 0
    assert {**plain.values, "rfid": row.values["rfid"]} == row.values
    assert row.settings["fid_weights"] == "ab" * 32
    assert row.protocol != plain.protocol
    # Of other weights, or of none, the figure would be another.
    assert measured(folder, pictures, split="all").measures[0] == plain


class Levels(torch.nn.Module):
    """Instead of the network of FID: the mean and the largest level."""

    num_features = 2

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        return torch.stack([given.float().mean(dim=(1, 2, 3)), given.float().amax(dim=(1, 2, 3))], dim=1)


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
