"""The options of a run. This module needs no package of the extra ``bulk``, so that ``--help`` needs none."""

from dataclasses import dataclass, field
from typing import Literal, get_args

Format = Literal["parquet", "npy", "tar"]
FORMATS: tuple[Format, ...] = get_args(Format)


@dataclass(frozen=True)
class Columns:
    """The columns of pictures, labels and keys of a table; None for those that are found."""

    image: str | None = None
    label: str | None = None
    key: str | None = None


@dataclass(frozen=True)
class Options:
    """The options that change what a run writes.

    - ``format``: of the shards
    - ``shard_size``: the rows of a shard, where rows can be counted before they are read
    - ``views``: the further views of each picture
    - ``resize``: whether pictures are resized to the size of the model
    - ``log_variance``: whether the log-variance of a Gaussian model's codes is written beside their mean
    - ``columns``: of tables
    """

    format: Format = "parquet"
    shard_size: int = 4096
    views: tuple[str, ...] = ()
    resize: bool = True
    log_variance: bool = False
    columns: Columns = field(default_factory=Columns)


@dataclass(frozen=True)
class Pool:
    """The actors of a run on Ray.

    - ``address``: of a cluster; None for one on this machine that ends with the run
    - ``actors``: how many; 0 for as many as the cluster has room for
    - ``cpus``: CPUs of each, and the threads of its model; 0 for 1 beside a GPU, else 2
    """

    address: str | None = None
    actors: int = 0
    cpus: int = 0
