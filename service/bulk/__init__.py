"""Bulk encoding: whole data sets to codes and back, without HTTP.

A run that is killed at any moment goes on with the same command, and has every key exactly once.

    __main__.py     ``python -m service.bulk``, and the errors that end it
    command.py      its commands and flags
    options.py      the options of a run
    launch.py       a run from start to end
    job.py          one run, in a form that can be given to another process
    sources/        what is read: files, tar shards, Parquet and Arrow tables, codes
    work/           what is done with an item: encode a picture and its views, decode codes
    engines/        what runs the shards: one process, or a pool of actors on Ray Data
    sinks.py        what is written: Parquet, npy or tar shards
    plan.py         the shards of a run, and which of them are done
    filesystem.py   files anywhere that fsspec reaches, written whole or not at all
    progress.py     images per second and the time left
"""

from service.errors import TesseraError


class BulkError(TesseraError):
    """A run that cannot start or go on. The message is for the person who started it."""
