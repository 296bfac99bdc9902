"""Picture files. The key is the path, the label the first folder in it: the class, if folders are classes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from service.bulk.sources.base import Item, Unit
from service.bulk.sources.listing import Listing


@dataclass(frozen=True)
class PictureFiles:
    """The pictures of a folder, of a pattern, or one."""

    listing: Listing

    def shards(self, shard_size: int) -> Iterator[list[Unit]]:
        files = self.listing.files("pictures")
        while shard := [Unit(path) for path in islice(files, shard_size)]:
            yield shard

    def items(self, units: Sequence[Unit]) -> Iterator[Item]:
        for unit in units:
            folder, separator, _ = unit.path.partition("/")
            yield Item(unit.path, folder if separator else None, self.listing.root.child(unit.path).read)
