import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from service.bulk import BulkError
from service.bulk.engines.ray_data import Worker, actor_size, for_actors, run
from service.bulk.options import Pool
from tests.fixtures.bulk_data import broken, job, table, write_pictures


@pytest.mark.parametrize(
    ("resources", "pool", "gpus", "expected"),
    [
        ({"CPU": 8}, Pool(), True, (2, 0, 4)),
        ({"CPU": 1}, Pool(), True, (1, 0, 1)),
        ({"CPU": 8}, Pool(actors=3, cpus=1), True, (1, 0, 3)),
        ({"CPU": 8}, Pool(actors=99, cpus=4), True, (4, 0, 2)),
        ({"CPU": 8, "GPU": 2}, Pool(), True, (1, 1, 2)),
        ({"CPU": 8, "GPU": 2}, Pool(), False, (2, 0, 4)),
        ({"CPU": 800}, Pool(), True, (2, 0, 50)),
    ],
)
def test_actors_fill_the_cluster(
    resources: dict[str, float], pool: Pool, gpus: bool, expected: tuple[int, int, int]
) -> None:
    assert tuple(actor_size(resources, pool, 50, gpus=gpus).values()) == expected


def test_a_cluster_that_is_too_small_is_refused() -> None:
    with pytest.raises(BulkError, match=r"needs 4 CPUs \(--cpus-per-actor\), and the cluster has 2"):
        actor_size({"CPU": 2}, Pool(cpus=4), 1, gpus=True)


def test_without_ray_the_extra_is_named(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BulkError, match=r"ray is not installed; .* pip install '\.\[cluster\]'"):
        next(run(job(exported, tmp_path, tmp_path / "out"), [0], Pool()))


def test_actors_get_whole_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sent = for_actors(job(Path("models"), "in/*.png", "memory://out"), 3)
    assert (sent.input, sent.output) == (f"{tmp_path}/in/*.png", "memory://out")
    assert (sent.settings.models, sent.settings.threads) == ((f"{tmp_path}/models",), 3)


def test_a_worker_returns_its_errors(exported: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 5)
    job_ = job(exported, tmp_path / "in", tmp_path / "out")
    _ = job_.plan
    worker = Worker(job_)
    assert worker({"shard": 1}) == {"shard": 1, "pictures": 1, "broken": 0, "error": ""}
    shutil.rmtree(tmp_path / "out" / "shards")
    (tmp_path / "out" / "shards").touch()
    assert worker({"shard": 1})["error"] == "File exists"
    assert "belongs to another run" in Worker(replace(job_, verb="decode"))({"shard": 1})["error"]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Ray's own
def test_shards_are_done_by_actors(exported: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    pixels = write_pictures(tmp_path / "in", 10)
    (tmp_path / "in" / "a" / "000.png").write_bytes(b"torn")
    job_ = job(exported, tmp_path / "in", tmp_path / "out")
    reports = list(run(job_, job_.plan.todo(), Pool(actors=1, cpus=1)))
    assert sorted(report.shard for report in reports if report.shard is not None) == [0, 1, 2]
    assert sum(report.pictures for report in reports) == 10
    assert [row["key"] for row in table(tmp_path / "out")] == sorted(pixels)[1:]
    assert list(broken(tmp_path / "out")) == ["a/000.png"]
