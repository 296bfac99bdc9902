from pathlib import Path

import fsspec
import orjson
import pytest

from service.bulk import BulkError
from tests.fixtures import halved_model, toy_models
from tests.fixtures.bulk_data import finish, job, table, write_pictures

pytestmark = pytest.mark.slow


def test_a_run_that_ended_goes_on_where_it_was(exported: Path, tmp_path: Path) -> None:
    pixels = write_pictures(tmp_path / "in", 10)
    first = job(exported, tmp_path / "in", tmp_path / "out")
    next(iter(first.engine().run(first.plan.todo())))
    again = job(exported, tmp_path / "in", tmp_path / "out")
    assert again.plan.todo() == [1, 2]
    finish(again)
    assert [row["key"] for row in table(tmp_path / "out")] == sorted(pixels)


def test_the_manifest_says_which_model_read_what(exported: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 5)
    job_ = job(exported, tmp_path / "in", tmp_path / "out")
    finish(job_)
    manifest = orjson.loads((tmp_path / "out" / "manifest.json").read_bytes())
    bundle = job_.bundle.manifest
    assert manifest["model"]["version"] == bundle.version
    assert manifest["model"]["codebook"]["sha256"] == bundle.files["codebook.safetensors"].sha256
    assert manifest["input"] == f"file://{tmp_path}/in"
    assert (manifest["shards"], manifest["pictures"]) == (2, 5)


def test_any_filesystem_is_read_and_written(exported: Path, tmp_path: Path) -> None:
    pixels = write_pictures(tmp_path / "in", 5)
    store = fsspec.filesystem("memory")
    for key in pixels:
        store.pipe_file(f"/in/{key}", (tmp_path / "in" / key).read_bytes())
    first = job(exported, "memory://in", "memory://out")
    next(iter(first.engine().run(first.plan.todo())))
    finish(job(exported, "memory://in", "memory://out"))
    store.get("/out/", str(tmp_path / "out"), recursive=True)
    assert [row["key"] for row in table(tmp_path / "out")] == sorted(pixels)
    assert {path.rpartition("/")[2] for path in store.find("/out")} == {
        "manifest.json",
        "listing.parquet",
        "00000.parquet",
        "00001.parquet",
    }


def test_codes_of_two_precisions_do_not_mix(exported: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 5)
    halved_model.write(tmp_path / "models")
    half = {"precision": "16"}
    assert job(tmp_path / "models", tmp_path / "in", tmp_path / "out", limits=half).plan.todo()
    manifest = orjson.loads((tmp_path / "out" / "manifest.json").read_bytes())
    assert manifest["model"]["precision"] == "16"
    with pytest.raises(BulkError, match="precision"):
        job(tmp_path / "models", tmp_path / "in", tmp_path / "out").plan.todo()
    with pytest.raises(BulkError, match=r"--precision 16: the model has no graphs in precision 16$"):
        job(exported, tmp_path / "in", tmp_path / "other", limits=half).engine()
    halved_model.write(tmp_path / "for cuda", halved_model.FOR_CUDA)
    with pytest.raises(
        BulkError, match=r"--precision 16: its graphs in precision 16 do not run on cpu: graph "
    ):
        job(tmp_path / "for cuda", tmp_path / "in", tmp_path / "third", limits=half).engine()


@pytest.mark.parametrize(
    ("name", "said"),
    [("leves", "did you mean 'levels'"), ("zzz", "it has colours, levels, oddity, patchwork, wanderer")],
)
def test_a_model_that_is_not_there_is_refused(exported: Path, tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(BulkError, match=said):
        job(exported, tmp_path, tmp_path / "out", name).check()


def test_a_model_that_is_damaged_is_refused(tmp_path: Path) -> None:
    toy_models.write_levels(tmp_path)
    (tmp_path / "levels" / "encoder.onnx").write_bytes(b"")
    with pytest.raises(BulkError, match=r"the model levels is refused: 'encoder.onnx' has 0 bytes"):
        job(tmp_path, tmp_path, tmp_path / "out").check()


def test_a_folder_of_models_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BulkError, match=r"\(--models\): the models folder cannot be read: No such file"):
        job(tmp_path / "absent", tmp_path, tmp_path / "out").check()


def test_the_log_variance_of_discrete_codes_is_refused_before_anything_is_written(
    exported: Path, tmp_path: Path
) -> None:
    write_pictures(tmp_path / "in", 1)
    with pytest.raises(BulkError, match="no log-variance"):
        _ = job(exported, tmp_path / "in", tmp_path / "out", log_variance=True).plan
    assert not (tmp_path / "out").exists()
