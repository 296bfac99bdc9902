from pathlib import Path

import pytest

from service.codecs.large.image_file import FileBytes


def test_the_bytes_of_a_file_are_those_in_memory(tmp_path: Path) -> None:
    data = bytes(70_000) + b"one\xff" + bytes(61_067) + b"two\xff"
    path = tmp_path / "file"
    path.write_bytes(data)
    with path.open("rb") as file:
        found = FileBytes(file)
        assert len(found) == len(data)
        for part in (
            slice(70_000, 70_003),
            slice(None, 5),
            slice(-3, None),
            slice(140_000, 150_000),
            slice(5, 3),
        ):
            assert found[part] == data[part]
        # The second lies across two of the windows that are searched.
        for wanted in (b"one", b"two", b"\xff", b"three"):
            for start in (0, 70_001, 131_072, len(data)):
                assert found.find(wanted, start) == data.find(wanted, start), (wanted, start)


@pytest.mark.parametrize("size", [0, 1])
def test_nothing_is_found_in_a_short_file(tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(bytes(size))
    with (tmp_path / "file").open("rb") as file:
        assert FileBytes(file).find(b"ab", 0) == -1
