"""The source of an input, by what lies there."""

from service.bulk.filesystem import Location
from service.bulk.options import Columns
from service.bulk.sources.archives import TarPictures
from service.bulk.sources.base import Source
from service.bulk.sources.files import PictureFiles
from service.bulk.sources.listing import Listing
from service.bulk.sources.tables import TablePictures


def picture_source(given: Location, columns: Columns) -> Source:
    """The pictures of a folder, a pattern or a file. Raises BulkError if there are none."""
    listing = Listing.of(given)
    kind = listing.kind()
    if kind == "pictures":
        return PictureFiles(listing)
    return TarPictures(listing) if kind == "tar" else TablePictures(listing, kind, columns)
