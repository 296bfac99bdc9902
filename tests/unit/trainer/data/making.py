"""Data for the tests, made on the spot."""

import gzip
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.contract.manifest import ImageSpec
from trainer.data.sources.idx import MEMBERS
from trainer.data.sources.pictures import Picture

GREY_8 = ImageSpec(channels=1, height=8, width=8)
RGB_8 = ImageSpec(channels=3, height=8, width=8)


def idx_bytes(values: NDArray[np.uint8], kind: int = 0x08) -> bytes:
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, kind, values.ndim, *values.shape)
    return header + values.tobytes()


def idx_values(count: int, size: int = 8, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    draws = np.random.default_rng(seed)
    images = draws.integers(0, 256, (count, size, size), dtype=np.uint8)
    return images, (np.arange(count) % 3).astype(np.uint8)


def write_idx_set(folder: Path, train: int = 12, test: int = 6, size: int = 8) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("training", train), ("test", test)):
        images, labels = idx_values(count, size, seed=count)
        (folder / MEMBERS[f"{part} images"]).write_bytes(idx_bytes(images))
        (folder / f"{MEMBERS[f'{part} labels']}.gz").write_bytes(gzip.compress(idx_bytes(labels)))
    return folder


def noise(seed: int, width: int = 8, height: int = 8, mode: str = "RGB") -> Image.Image:
    channels = len(Image.new(mode, (1, 1)).getbands())
    draws = np.random.default_rng(seed)
    pixels = draws.integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(pixels.squeeze(-1) if channels == 1 else pixels, mode)


def save(image: Image.Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def write_pictures(folder: Path, count: int, start: int = 0, mode: str = "RGB") -> Path:
    for index in range(start, start + count):
        save(noise(index, mode=mode), folder / f"{index:03}.png")
    return folder


def break_off(path: Path) -> Path:
    """Leave the first half of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


class ListedPictures:
    """Pictures from a list; an exception in it is raised instead."""

    def __init__(self, images: list[Image.Image | Exception], labels: list[int | None] | None = None) -> None:
        self.images = images
        self.labels = labels or [None] * len(images)

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return f"picture {index}"

    def open(self, index: int) -> Picture:
        image = self.images[index]
        if isinstance(image, Exception):
            raise image
        return Picture(image.copy(), self.labels[index])
