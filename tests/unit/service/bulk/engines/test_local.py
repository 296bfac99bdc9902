import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from service.bulk.engines.local import Engine
from service.bulk.sources.base import Item
from tests.fixtures import brittle_model, toy_models
from tests.fixtures.bulk_data import broken, finish, image, job, table, write_pictures
from tests.fixtures.image_files import saved


@pytest.fixture(scope="module")
def brittle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return brittle_model.write(tmp_path_factory.mktemp("brittle")).parent


def test_every_picture_has_its_codes_in_the_order_of_keys(exported: Path, tmp_path: Path) -> None:
    pixels = write_pictures(tmp_path / "in", 11)
    reports = finish(job(exported, tmp_path / "in", tmp_path / "out"))
    assert [report.shard for report in reports] == [0, 1, 2]
    assert sum(report.pictures for report in reports) == 11
    rows = table(tmp_path / "out")
    assert [row["key"] for row in rows] == sorted(pixels)
    for row in rows:
        assert (row["label"], row["height"], row["width"]) == (row["key"][0], 28, 28)
        expected = toy_models.levels(pixels[row["key"]][None, :, :, None])
        np.testing.assert_array_equal(row["codes"][None], expected)


def test_broken_pictures_go_to_the_side_with_the_reason(exported: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 5)
    (tmp_path / "in" / "a" / "000.png").write_bytes(b"torn")
    (tmp_path / "in" / "b" / "001.png").write_bytes(b"")
    job_ = job(exported, tmp_path / "in", tmp_path / "out")
    _ = job_.plan
    (tmp_path / "in" / "b" / "003.png").unlink()
    reports = finish(job_)
    assert sum(report.broken for report in reports) == 3
    assert [row["key"] for row in table(tmp_path / "out")] == ["a/002.png", "a/004.png"]
    assert broken(tmp_path / "out") == {
        "a/000.png": "the image is no PNG, JPEG or WebP that can be read",
        "b/001.png": "the image is empty: it has no bytes",
        "b/003.png": "the file cannot be read: No such file or directory",
    }


def test_pictures_of_several_sizes_keep_their_order(exported: Path, tmp_path: Path) -> None:
    sizes = [(4, 8), (8, 4), (4, 8), (12, 12)]
    (tmp_path / "in").mkdir()
    for number, size in enumerate(sizes):
        (tmp_path / "in" / f"{number}.png").write_bytes(saved(image(number, *size)))
    finish(job(exported, tmp_path / "in", tmp_path / "out", resize=False))
    rows = table(tmp_path / "out")
    assert [(row["height"], row["width"]) for row in rows] == sizes
    for number, row in enumerate(rows):
        expected = toy_models.levels(image(number, *sizes[number])[None, :, :, None])
        np.testing.assert_array_equal(row["codes"][None], expected)


def test_of_a_batch_that_fails_only_the_rows_that_fail_are_lost(brittle: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in (0, 250, 100):
        pixels = np.full((4, 4), number, np.uint8)
        (tmp_path / "in" / f"{number:03}.png").write_bytes(saved(pixels))
    finish(job(brittle, tmp_path / "in", tmp_path / "out", "brittle"))
    assert [(row["key"], row["codes"].item()) for row in table(tmp_path / "out")] == [
        ("000.png", 0),
        ("100.png", 100),
    ]
    assert list(broken(tmp_path / "out")) == ["250.png"]


def test_a_key_that_is_there_twice_is_written_once(exported: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 1)
    job_ = job(exported, tmp_path / "in", tmp_path / "out")
    engine = job_.engine()

    class Twice:
        def items(self, units: object) -> Iterator[Item]:
            (item,) = engine.source.items(units)  # type: ignore[arg-type]
            yield from (item, item)

    twice = Engine(job_.plan, Twice(), engine.work, 1)  # type: ignore[arg-type]
    assert [report.broken for report in twice.run([0])] == [1]
    assert [row["key"] for row in table(tmp_path / "out")] == ["a/000.png"]
    assert broken(tmp_path / "out") == {"a/000.png": "another picture of this shard has the same key"}


def test_a_source_that_fails_ends_the_run_and_its_threads(exported: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 6)
    job_ = job(exported, tmp_path / "in", tmp_path / "out")
    engine = job_.engine()

    class Failing:
        def items(self, units: object) -> Iterator[Item]:
            yield from engine.source.items(units)  # type: ignore[arg-type]
            raise ConnectionError("the network is gone")

    before = threading.active_count()
    with pytest.raises(ConnectionError, match="the network is gone"):
        list(Engine(job_.plan, Failing(), engine.work, 2).run([0, 1]))  # type: ignore[arg-type]
    assert threading.active_count() == before
    assert not (tmp_path / "out" / "shards").exists()
