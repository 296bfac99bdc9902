"""A run from start to end: on Ray or in this process, with its progress on stderr."""

import sys

from service.bulk import BulkError
from service.bulk.engines import ray_data
from service.bulk.job import Job
from service.bulk.options import Pool
from service.bulk.progress import Progress


def launch(job: Job, pool: Pool | None) -> None:
    """Run the shards that are not done: on Ray if there is a pool, else in this process.

    Raises BulkError if the run cannot start, or ends without all shards.
    """
    # Before the output is made.
    job.check()
    with job.destination.reserved():
        _finish(job, pool)


def _finish(job: Job, pool: Pool | None) -> None:
    plan = job.plan
    todo = plan.todo()
    if not todo:
        sys.stderr.write(f"nothing is left to do: {job.output} has all {plan.shards:,} shards\n")
        return
    if len(todo) < plan.shards:
        sys.stderr.write(f"going on: {plan.shards - len(todo):,} of {plan.shards:,} shards are done\n")
    progress = Progress(plan.rows(todo), len(todo))
    reports = job.engine().run(todo) if pool is None else ray_data.run(job, todo, pool)
    for report in reports:
        progress.add(report.pictures, report.broken, shards=int(report.shard is not None))
    # What a killed actor left, too.
    if missing := plan.todo():
        raise BulkError(f"{len(missing):,} shards are missing in {job.output}; run the same command again")
    if not progress.done and len(todo) == plan.shards:
        # Else the same command would find nothing left to do.
        plan.undo()
        raise BulkError(f"the input {job.input} has no pictures")
    sys.stderr.write(f"{progress.end()}; written to {job.output}\n")
