"""Ray Data: a pool of actors, each with the model, takes the shards of a plan one by one.

An actor has a GPU where the cluster has any, else some CPUs. It reads, encodes and writes whole shards with
the engine of one process, so only numbers go through Ray. If an actor is lost, another gets its shard.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from service.bulk import BulkError
from service.bulk.engines.local import Engine, Report
from service.bulk.filesystem import Location, first_line
from service.bulk.job import Job
from service.bulk.options import Pool
from service.errors import TesseraError
from service.models.hub.reference import is_reference


class Worker:
    """An actor: the engine of a job, loaded once."""

    def __init__(self, job: Job) -> None:
        self._job = job

    @cached_property
    def _engine(self) -> Engine:
        return self._job.engine()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Run and write the shard of a row: how many pictures it has and how many are broken, or an error."""
        result = {"shard": row["shard"], "pictures": 0, "broken": 0, "error": ""}
        try:
            for report in self._engine.run([row["shard"]]):
                result["pictures"] += report.pictures
                result["broken"] += report.broken
        except (TesseraError, OSError) as error:
            # As a value: what Ray raises for an error has neither its type nor its text.
            result["error"] = first_line(error)
        return result


def run(job: Job, shards: Sequence[int], pool: Pool) -> Iterator[Report]:
    """Run and write some shards: a report for each, in the order in which they are done.

    Raises BulkError if the extra is missing, the cluster cannot be reached or started, or a shard fails.
    """
    ray = _ray()
    with _cluster(ray, pool.address):
        size = actor_size(ray.cluster_resources(), pool, len(shards), gpus=job.settings.provider != "cpu")
        threads = job.settings.threads or size["num_cpus"]
        fresh = for_actors(job, threads)
        data = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards))
        actors = ray.data.ActorPoolStrategy(size=size.pop("actors"))
        for row in data.map(Worker, fn_constructor_args=[fresh], compute=actors, **size).iter_rows():
            if row["error"]:
                raise BulkError(f"shard {row['shard']} failed: {row['error']}")
            yield Report(row["pictures"], row["broken"], row["shard"])


def for_actors(job: Job, threads: int) -> Job:
    """A job without what this process has opened, and without paths that depend on its folder."""

    def whole(uri: str) -> str:
        location = Location.of(uri)
        return location.path if location.is_local else uri

    models = [each if is_reference(each) else str(Path(each).resolve()) for each in job.settings.models]
    changes = {"threads": threads, "models": tuple(models)}
    settings = job.settings.model_copy(update=changes)
    return replace(job, input=whole(job.input), output=whole(job.output), settings=settings)


def actor_size(resources: Mapping[str, float], pool: Pool, shards: int, *, gpus: bool) -> dict[str, int]:
    """The CPUs and GPUs of an actor, and how many actors there are, at most one for each shard.

    Raises BulkError if the cluster is too small for one.
    """
    cpus_there, gpus_there = int(resources.get("CPU", 0)), int(resources.get("GPU", 0)) if gpus else 0
    cpus = pool.cpus or (1 if gpus_there else min(2, cpus_there))
    room = cpus_there // max(1, cpus)
    if gpus_there:
        room = min(room, gpus_there)
    if not room:
        raise BulkError(f"an actor needs {cpus} CPUs (--cpus-per-actor), and the cluster has {cpus_there}")
    actors = min(pool.actors or room, room, shards)
    return {"num_cpus": cpus, "num_gpus": int(gpus_there > 0), "actors": actors}


def _ray() -> Any:
    # Read by Ray when it is imported: nothing is reported to anybody.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        detail = f"--engine ray: {error.name} is not installed; it comes with the extra"
        raise BulkError(f"{detail}: pip install '.[cluster]'") from error
    return ray


@contextmanager
def _cluster(ray: Any, address: str | None) -> Iterator[None]:
    """A cluster that is connected, and quiet: progress is shown by the run itself."""
    try:
        ray.init(address or "local", include_dashboard=False if address is None else None,
                 log_to_driver=False, logging_level=logging.ERROR)  # fmt: skip
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = f"the cluster at {address}" if address else "a cluster on this machine"
        raise BulkError(f"--engine ray: {where} cannot be had: {first_line(error)}") from error
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        yield
    except ray.exceptions.RayError as error:
        raise BulkError(f"Ray failed: {first_line(error)}") from error
    finally:
        ray.shutdown()
