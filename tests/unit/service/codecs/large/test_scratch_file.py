import os
import tempfile
from pathlib import Path

import pytest

from service.codecs.large.scratch_file import ScratchFile
from service.errors import InflightBytesExceeded


def test_it_has_no_name_and_is_read_from_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    scratch = ScratchFile()
    scratch.write(b"one")
    scratch.write(b"two")
    assert scratch.finish() == 6
    assert scratch.file.read() == os.pread(scratch.fileno(), 9, 0) == b"onetwo"
    assert list(tmp_path.iterdir()) == []


def test_it_is_closed_with_its_last_reference() -> None:
    scratch = ScratchFile()
    file = scratch.file
    del scratch
    assert file.closed


def test_a_full_disk_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = ScratchFile()
    # Linux has a file that is always full.
    with Path("/dev/full").open("wb") as full:
        monkeypatch.setattr(scratch, "file", full)
        with pytest.raises(InflightBytesExceeded, match=r"TMPDIR.* No space left on device"):
            scratch.write(bytes(2**20))


def test_a_missing_folder_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(InflightBytesExceeded, match="No such file"):
        ScratchFile()
