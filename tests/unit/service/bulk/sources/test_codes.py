from pathlib import Path

import numpy as np
import orjson
import pytest

from service.bulk import BulkError
from service.bulk.options import FORMATS, Format
from tests.fixtures import toy_models
from tests.fixtures.bulk_data import finish, job, write_pictures


@pytest.mark.parametrize("form", FORMATS)
def test_what_was_encoded_is_decoded(exported: Path, tmp_path: Path, form: Format) -> None:
    pixels = write_pictures(tmp_path / "in", 6)
    finish(job(exported, tmp_path / "in", tmp_path / "codes", format=form, views=("flip",)))
    finish(job(exported, tmp_path / "codes", tmp_path / "out", verb="decode", format="npy"))
    images = np.concatenate([np.load(path) for path in sorted((tmp_path / "out" / "shards").glob("*.npy"))])
    expected = [view for key in sorted(pixels) for view in (pixels[key], pixels[key][:, ::-1])]
    codes = toy_models.levels(np.stack(expected)[..., None])
    np.testing.assert_array_equal(images, toy_models.pixels(codes))
    lines = b"".join(path.read_bytes() for path in sorted((tmp_path / "out" / "shards").glob("*.jsonl")))
    records = [orjson.loads(line) for line in lines.splitlines()]
    assert [(each["key"], each["view"]) for each in records] == [
        (key, view) for key in sorted(pixels) for view in ("whole", "flip")
    ]


def test_codes_of_another_model_are_not_decoded(exported: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 1)
    finish(job(exported, tmp_path / "in", tmp_path / "codes"))
    decode = job(exported, tmp_path / "codes", tmp_path / "out", "colours", verb="decode")
    with pytest.raises(BulkError, match=r"are of levels \w+, and the model is colours"):
        decode.check()


def test_codes_that_are_not_all_there_are_not_decoded(exported: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 5)
    finish(job(exported, tmp_path / "in", tmp_path / "codes"))
    (tmp_path / "codes" / "shards" / "00001.parquet").unlink()
    with pytest.raises(BulkError, match="has 1 of 2 shards; finish its run first"):
        job(exported, tmp_path / "codes", tmp_path / "out", verb="decode").check()


def test_a_damaged_shard_ends_the_run(exported: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 1)
    finish(job(exported, tmp_path / "in", tmp_path / "codes"))
    (tmp_path / "codes" / "shards" / "00000.parquet").write_bytes(b"torn")
    with pytest.raises(BulkError, match=r"shard 00000 of .* is damaged"):
        finish(job(exported, tmp_path / "codes", tmp_path / "out", verb="decode"))


def test_an_output_of_decode_has_no_codes(exported: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 1)
    finish(job(exported, tmp_path / "in", tmp_path / "codes"))
    finish(job(exported, tmp_path / "codes", tmp_path / "out", verb="decode"))
    with pytest.raises(BulkError, match="was written by decode, and has no codes"):
        job(exported, tmp_path / "out", tmp_path / "more", verb="decode").check()
