"""The IDX format of MNIST and of the sets made in its shape, gzipped or raw.

An IDX file is a magic number (two zero bytes, a type, the number of axes), the length of each axis as
big-endian uint32, and the values. A set is four files, images and labels for training and for testing.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.data.sources.pictures import ArrayPictures, Source
from trainer.errors import DataError

MNIST = Path(__file__).parents[1] / "mnist"

GZIP_MAGIC = b"\x1f\x8b"
UNSIGNED_BYTE = 0x08
TYPES = {0x08: "uint8", 0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64"}
MEMBERS = {
    "training images": "train-images-idx3-ubyte",
    "training labels": "train-labels-idx1-ubyte",
    "test images": "t10k-images-idx3-ubyte",
    "test labels": "t10k-labels-idx1-ubyte",
}


def bundled_mnist() -> Source:
    """MNIST: 60,000 training and 10,000 test digits of 28x28."""
    return read_set(MNIST, name="mnist")


def is_set(folder: Path) -> bool:
    """Whether a folder holds at least one of the four files."""
    return any(_member(folder, stem) is not None for stem in MEMBERS.values())


def members(folder: Path) -> dict[str, Path]:
    """The four files of a set, by what they hold. Raises DataError if one is missing."""
    files = {role: _member(folder, stem) for role, stem in MEMBERS.items()}
    if missing := [MEMBERS[role] for role, path in files.items() if path is None]:
        raise DataError(f"{folder} lacks {', '.join(missing)} (raw or .gz): an IDX set is four files")
    return {role: path for role, path in files.items() if path is not None}


def read_set(folder: Path, name: str | None = None) -> Source:
    """Read the four files of a set; each may be gzipped, and may have ``.idx`` in its name for ``-idx``.

    The classes are called ``"0"``, ``"1"``, ... Raises DataError if a file is missing, is not what it should
    be, or does not belong to the others.
    """
    paths = members(folder)
    train = _pictures(paths["training images"], paths["training labels"])
    test = _pictures(paths["test images"], paths["test labels"])
    if train.pixels.shape[1:] != test.pixels.shape[1:]:
        raise DataError(f"{train.title} and {test.title} differ: {_size(train)} and {_size(test)} pixels")
    classes = int(max(train.labels.max(), test.labels.max())) + 1
    return Source(name or folder.resolve().name, train, test, tuple(str(label) for label in range(classes)))


def read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """The values of an IDX file of unsigned bytes with ``axes`` axes.

    Raises DataError, which says what was found and what was expected, if the file is anything else.
    """
    content = _content(path)
    expected_magic = bytes((0, 0, UNSIGNED_BYTE, axes))
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in TYPES:
        raise DataError(
            f"{path} is no IDX file: it begins with {content[:4].hex(' ') or 'nothing'}, "
            f"expected {expected_magic.hex(' ')}"
        )
    if content[2] != UNSIGNED_BYTE:
        raise DataError(f"{path} holds {TYPES[content[2]]} values, expected uint8")
    if content[3] != axes:
        raise DataError(f"{path} has {content[3]} axes, expected {axes}")
    start = 4 + 4 * axes
    if len(content) < start:
        raise DataError(f"{path} is truncated: its header has {len(content)} bytes, expected {start}")
    shape = struct.unpack(f">{axes}I", content[4:start])
    found, expected = len(content) - start, math.prod(shape)
    if found != expected:
        problem = "is truncated" if found < expected else "has trailing bytes"
        raise DataError(
            f"{path} {problem}: it holds {found:,} values, expected {expected:,} "
            f"({'x'.join(map(str, shape))})"
        )
    if expected == 0:
        raise DataError(f"{path} is empty: its shape is {'x'.join(map(str, shape))}")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def _content(path: Path) -> bytearray:
    try:
        stored = path.read_bytes()
        # A bytearray, because torch warns of tensors over memory that cannot be written.
        return bytearray(gzip.decompress(stored) if stored.startswith(GZIP_MAGIC) else stored)
    except EOFError as error:
        raise DataError(f"{path} is truncated: the gzip stream ends before its end marker") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is a damaged gzip file: {error}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _member(folder: Path, stem: str) -> Path | None:
    spellings = (stem, stem.replace("-idx", ".idx"))
    candidates = (folder / f"{spelling}{suffix}" for spelling in spellings for suffix in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)


def _pictures(images: Path, labels: Path) -> ArrayPictures:
    pixels, classes = read_idx(images, axes=3), read_idx(labels, axes=1)
    if len(pixels) != len(classes):
        raise DataError(f"{images} has {len(pixels):,} images, but {labels} has {len(classes):,} labels")
    return ArrayPictures(images.name, pixels, classes.astype(np.int64))


def _size(pictures: ArrayPictures) -> str:
    _, height, width = pictures.pixels.shape
    return f"{width}x{height}"
