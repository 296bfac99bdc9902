from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bulk import BulkError
from service.bulk.filesystem import Location
from service.bulk.plan import Plan, begin, read_manifest
from service.bulk.sinks import Row
from service.bulk.sources.base import UNKNOWN, Unit
from tests.fixtures.bulk_data import broken, table

pytestmark = pytest.mark.slow

WANTED = {
    "schema_version": 1,
    "command": "encode",
    "model": {"name": "levels", "version": "1"},
    "input": "a",
    "format": "parquet",
    "options": {"shard_size": 4},
}
CODES = np.zeros((1, 1), np.int32)
EMPTY = {"codes": CODES}


def row(key: str) -> Row:
    return Row(key, None, None, 1, 1, {"codes": CODES})


def plan_of(folder: Path, shards: Sequence[list[Unit]], **changes: Any) -> Plan:
    return begin(Location.of(str(folder)), "parquet", WANTED | changes, iter(shards))


units = st.builds(Unit, st.text(), st.integers(0, 99), st.integers(0, 99), st.integers(0, 9))
shards_of_units = st.lists(st.lists(units, min_size=1, max_size=4), min_size=1, max_size=6)


@given(shards_of_units, st.lists(st.integers(0, 6), max_size=6))
def test_every_shard_is_done_once_whenever_a_run_ends(shards: list[list[Unit]], ends: list[int]) -> None:
    """Each number is a run that ends after so many shards; the last run goes to the end."""
    with TemporaryDirectory() as folder:
        done: list[list[Unit]] = []
        for end in [*ends, len(shards)]:
            plan = plan_of(Path(folder), shards)
            for shard in plan.todo()[:end]:
                done.append(plan.units(shard))
                plan.finish(shard, [row(str(shard))], [], EMPTY)
        assert done == shards
        assert [each["key"] for each in table(Path(folder))] == [str(shard) for shard in range(len(shards))]


@given(shards_of_units, st.data())
def test_the_pictures_of_shards_are_counted(shards: list[list[Unit]], data: st.DataObject) -> None:
    some = data.draw(st.sets(st.integers(0, len(shards) - 1)))
    with TemporaryDirectory() as folder:
        plan = plan_of(Path(folder), shards)
        assert plan.rows(sorted(some)) == sum(unit.rows for shard in some for unit in shards[shard])
        assert plan.pictures == sum(unit.rows for shard in shards for unit in shard)


def test_without_a_count_the_pictures_are_unknown(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [[Unit("a.tar", rows=UNKNOWN)]])
    assert (plan.pictures, plan.rows([0])) == (None, None)


def test_the_input_is_listed_only_at_the_start(tmp_path: Path) -> None:
    plan_of(tmp_path, [[Unit("a")], [Unit("b")]])
    assert plan_of(tmp_path, []).units(1) == [Unit("b")]


def test_a_damaged_listing_is_refused(tmp_path: Path) -> None:
    plan_of(tmp_path, [[Unit("a")]])
    listing = tmp_path / "listing.parquet"
    listing.write_bytes(listing.read_bytes()[:-9])
    with pytest.raises(BulkError, match=r"the listing\.parquet of .* is not the one of its manifest\.json"):
        plan_of(tmp_path, [])


def test_a_listing_without_a_manifest_is_made_again(tmp_path: Path) -> None:
    plan_of(tmp_path, [[Unit("a")]])
    (tmp_path / "manifest.json").unlink()
    assert plan_of(tmp_path, [[Unit("b")]]).units(0) == [Unit("b")]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {"name": "colours", "version": "2"}}, "its model is levels 1, and here it is colours 2"),
        ({"input": "b"}, "its input is a, and here it is b"),
        ({"options": {"shard_size": 5}}, "its options is shard_size 4, and here it is shard_size 5"),
    ],
)
def test_the_output_of_another_run_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    plan_of(tmp_path, [[Unit("a")]])
    with pytest.raises(BulkError, match=said):
        plan_of(tmp_path, [[Unit("a")]], **changes)


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(BulkError, match=r"no output of a run, and has files: thesis\.tex"):
        plan_of(tmp_path, [[Unit("a")]])


def test_an_input_without_shards_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(BulkError, match="the input a has no pictures"):
        plan_of(tmp_path, [])
    assert list(tmp_path.iterdir()) == []


def test_what_killed_runs_left_is_removed(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [[Unit("a")]])
    plan.finish(0, [], [("a", "torn")], EMPTY)
    left = [tmp_path / name / f".x.{'a' * 32}.tmp" for name in (".", "shards", "broken")]
    for path in left:
        path.touch()
    assert plan.todo() == []
    assert not any(path.exists() for path in left)


def test_a_picture_that_was_repaired_is_no_longer_called_broken(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [[Unit("a")]])
    plan.finish(0, [], [("a", "torn")], EMPTY)
    assert broken(tmp_path) == {"a": "torn"}
    plan.finish(0, [row("a")], [], EMPTY)
    assert broken(tmp_path) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "is not JSON"),
        ('{"schema_version": 2}', "schema version 2, not 1"),
        # Such as that of a model.
        ('{"schema_version": 1, "name": "x"}', "is no output of a run"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(BulkError, match=said):
        read_manifest(Location.of(str(tmp_path)))
