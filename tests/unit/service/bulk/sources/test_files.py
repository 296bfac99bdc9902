from pathlib import Path

from service.bulk.filesystem import Location
from service.bulk.sources.files import PictureFiles
from service.bulk.sources.listing import Listing
from tests.fixtures.bulk_data import image, write_pictures
from tests.fixtures.image_files import saved


def source(folder: Path) -> PictureFiles:
    return PictureFiles(Listing.of(Location.of(str(folder))))


def test_a_shard_has_so_many_files(tmp_path: Path) -> None:
    pixels = write_pictures(tmp_path, 5)
    shards = list(source(tmp_path).shards(2))
    assert [len(shard) for shard in shards] == [2, 2, 1]
    assert [unit.path for shard in shards for unit in shard] == sorted(pixels)


def test_the_label_is_the_first_folder(tmp_path: Path) -> None:
    write_pictures(tmp_path, 2)
    (tmp_path / "0.png").write_bytes(saved(image(9)))
    files = source(tmp_path)
    (units,) = files.shards(10)
    items = list(files.items(units))
    assert [(item.key, item.label) for item in items] == [
        ("0.png", None),
        ("a/000.png", "a"),
        ("b/001.png", "b"),
    ]
    assert items[0].read() == saved(image(9))
