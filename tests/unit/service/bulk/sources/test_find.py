from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.bulk.filesystem import Location
from service.bulk.options import Columns
from service.bulk.sources.archives import TarPictures
from service.bulk.sources.files import PictureFiles
from service.bulk.sources.find import picture_source
from service.bulk.sources.tables import TablePictures
from tests.fixtures.bulk_data import write_pictures, write_tar


@pytest.mark.parametrize("kind", [PictureFiles, TarPictures, TablePictures])
def test_what_lies_there_decides(tmp_path: Path, kind: type) -> None:
    if kind is PictureFiles:
        write_pictures(tmp_path, 1)
    elif kind is TarPictures:
        write_tar(tmp_path / "0.tar", {"1.png": b""})
    else:
        pq.write_table(pa.table({"image": [b""]}), tmp_path / "0.parquet")
    assert isinstance(picture_source(Location.of(str(tmp_path)), Columns()), kind)
