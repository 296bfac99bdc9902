import gzip
import re
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.unit.trainer.data.making import idx_bytes, idx_values, write_idx_set
from trainer.data.sources.idx import MEMBERS, bundled_mnist, is_set, read_idx, read_set
from trainer.data.sources.pictures import ArrayPictures
from trainer.errors import DataError

VALUES, _ = idx_values(3, size=4)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("idx") / "file"


@st.composite
def byte_arrays(draw: st.DrawFn) -> NDArray[np.uint8]:
    shape = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    content = draw(st.binary(min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


@settings(deadline=None)
@given(values=byte_arrays(), zipped=st.booleans())
def test_what_was_written_is_read(scratch: Path, values: NDArray[np.uint8], zipped: bool) -> None:
    content = idx_bytes(values)
    scratch.write_bytes(gzip.compress(content) if zipped else content)
    assert np.array_equal(read_idx(scratch, axes=values.ndim), values)


@settings(deadline=None)
@given(data=st.data(), zipped=st.booleans())
def test_a_file_cut_anywhere_is_refused(scratch: Path, data: st.DataObject, zipped: bool) -> None:
    content = gzip.compress(idx_bytes(VALUES)) if zipped else idx_bytes(VALUES)
    scratch.write_bytes(content[: data.draw(st.integers(0, len(content) - 1), label="bytes left")])
    with pytest.raises(DataError, match=re.escape(str(scratch))):
        read_idx(scratch, axes=3)


@settings(deadline=None)
@given(data=st.data(), zipped=st.booleans())
def test_a_changed_byte_never_raises_anything_else(scratch: Path, data: st.DataObject, zipped: bool) -> None:
    content = bytearray(gzip.compress(idx_bytes(VALUES)) if zipped else idx_bytes(VALUES))
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    scratch.write_bytes(content)
    with suppress(DataError):
        assert read_idx(scratch, axes=3).size == VALUES.size


# Without the time of day in them: tests that run side by side must have the same names.
ZIPPED = gzip.compress(idx_bytes(VALUES), mtime=0)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "begins with nothing, expected 00 00 08 03"),
        (b"\x89PNG\r\n\x1a\n", "is no IDX file: it begins with 89 50 4e 47"),
        (idx_bytes(VALUES, kind=0x0D), "holds float32 values, expected uint8"),
        (idx_bytes(VALUES.ravel()), "has 1 axes, expected 3"),
        (idx_bytes(VALUES)[:9], "its header has 9 bytes, expected 16"),
        (idx_bytes(VALUES)[:-1], r"truncated: it holds 47 values, expected 48 \(3x4x4\)"),
        (idx_bytes(VALUES) + b"..", "trailing bytes: it holds 50 values, expected 48"),
        (idx_bytes(VALUES[:0]), "is empty: its shape is 0x4x4"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "is truncated: it holds 0 values, expected 79,"),
        (ZIPPED[:-9], "ends before its end marker"),
        (ZIPPED[:-8] + bytes(8), "is a damaged gzip file: CRC check failed"),
    ],
)
def test_a_wrong_file_is_explained(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(DataError, match=complaint):
        read_idx(path, axes=3)


def test_mnist_is_bundled() -> None:
    mnist = bundled_mnist()
    assert isinstance(mnist.train, ArrayPictures)
    assert mnist.train.pixels.shape == (60_000, 28, 28)
    assert mnist.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert mnist.test is not None
    assert len(mnist.test) == 10_000
    assert mnist.label_names == tuple("0123456789")


def test_raw_and_gzipped_files_go_together(tmp_path: Path) -> None:
    found = read_set(write_idx_set(tmp_path / "digits", train=12, test=6))
    assert (found.name, len(found.train), found.label_names) == ("digits", 12, ("0", "1", "2"))


def test_gzip_is_known_by_its_content(tmp_path: Path) -> None:
    write_idx_set(tmp_path)
    raw = tmp_path / MEMBERS["training images"]
    raw.write_bytes(gzip.compress(raw.read_bytes()))
    assert len(read_set(tmp_path).train) == 12


def test_names_may_be_spelled_with_a_dot(tmp_path: Path) -> None:
    write_idx_set(tmp_path)
    for path in tmp_path.iterdir():
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert is_set(tmp_path)
    assert len(read_set(tmp_path).train) == 12


def test_missing_files_are_named(tmp_path: Path) -> None:
    write_idx_set(tmp_path)
    (tmp_path / MEMBERS["training images"]).unlink()
    (tmp_path / MEMBERS["test images"]).unlink()
    with pytest.raises(DataError, match="lacks train-images-idx3-ubyte, t10k-images-idx3-ubyte"):
        read_set(tmp_path)


def test_labels_must_be_as_many_as_images(tmp_path: Path) -> None:
    write_idx_set(tmp_path)
    (tmp_path / MEMBERS["training images"]).write_bytes(idx_bytes(idx_values(11)[0]))
    with pytest.raises(DataError, match=r"has 11 images, but .* has 12 labels"):
        read_set(tmp_path)


def test_both_parts_must_have_one_size(tmp_path: Path) -> None:
    write_idx_set(tmp_path)
    (tmp_path / MEMBERS["test images"]).write_bytes(idx_bytes(idx_values(6, size=5)[0]))
    with pytest.raises(DataError, match="differ: 8x8 and 5x5 pixels"):
        read_set(tmp_path)
