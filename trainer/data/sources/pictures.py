"""Pictures as every source gives them, opened one by one in any mode and size, and how they are decoded.

Many are decoded at once, in threads: Pillow releases the interpreter lock while it works.
"""

import io
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from service.contract.cpu_count import available_cpus
from service.contract.image_preprocessing import prepare
from service.contract.manifest import ImageSpec
from trainer.errors import shortened

# Only formats that Pillow decodes by itself: some others, EPS for one, start programs.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")
MAX_PIXELS = 89_478_485  # a quarter of a GiB of RGB, and where Pillow itself begins to warn
MOST_REASON = 200
# Pictures that are handed to the threads at once.
CHUNK = 256

OnProgress = Callable[[int, int], None]
"""Called with how many are done so far, and how many there are: pictures that are read, say."""

LongStep = Callable[[str], AbstractContextManager[OnProgress]]
"""Names a long step for as long as it takes; it may report how far it is."""


@dataclass(frozen=True)
class Picture:
    """A picture of a source and the index of its class, if it has one."""

    image: Image.Image
    label: int | None = None


class Pictures(Protocol):
    """The pictures of one split of a source, in the source's own order. Has to be picklable."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What to call a picture when it is skipped: its path, say."""

    def open(self, index: int) -> Picture:
        """Open a picture; its pixels may still be undecoded. A broken one raises any exception."""


@dataclass(frozen=True)
class Source:
    """The pictures that ``--data`` names. Without ``test``, a share of ``train`` is held out."""

    name: str
    train: Pictures
    test: Pictures | None = None
    label_names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Skipped:
    """A picture that could not be read, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


@dataclass(frozen=True)
class DecodedPicture:
    """A picture made to fit: pixels uint8 ``(C, H, W)``."""

    pixels: NDArray[np.uint8]
    label: int | None


@dataclass(frozen=True)
class ArrayPictures:
    """Pictures that are pixels already: greyscale uint8 ``(N, H, W)``, with labels int64 ``(N,)``."""

    title: str
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.pixels)

    def name(self, index: int) -> str:
        return f"{self.title}[{index}]"

    def open(self, index: int) -> Picture:
        return Picture(Image.fromarray(self.pixels[index]), int(self.labels[index]))

    def fits(self, spec: ImageSpec) -> bool:
        """Whether the pixels are what ``spec`` asks for, with nothing to convert or resize."""
        return self.pixels.shape[1:] == (spec.height, spec.width) and spec.channels == 1


@dataclass(frozen=True)
class Decoded:
    """The result of decoding pictures.

    ``rows`` are the indices of those that could be read, in order; ``images``, uint8 ``(N, C, H, W)`` unless
    they were not kept, and ``labels``, int64 ``(N,)`` unless some picture has none, belong to them.
    ``looked_at`` counts the pictures tried, the skipped ones too.
    """

    rows: NDArray[np.int64]
    images: NDArray[np.uint8] | None
    labels: NDArray[np.int64] | None
    skipped: tuple[Skipped, ...]
    looked_at: int


def open_image(file: str | Path | bytes) -> Image.Image:
    """Open a picture from a path or from the bytes of a file, in one of ``FORMATS``."""
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    return Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=formats)


def check_pixels(image: Image.Image) -> None:
    """Raise ValueError for a picture of more than ``MAX_PIXELS``."""
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width}x{image.height} is more than {MAX_PIXELS:,} pixels")


def decode_picture(pictures: Pictures, index: int, spec: ImageSpec) -> DecodedPicture | Skipped:
    """Decode a picture and make it fit, or say why that cannot be done. Never raises for a broken picture."""
    try:
        picture = pictures.open(index)
        with picture.image as image:
            check_pixels(image)
            return DecodedPicture(prepare(image, spec).transpose(2, 0, 1), picture.label)
    except Exception as error:  # Pillow's decoders raise nearly anything on broken bytes
        return Skipped(pictures.name(index), reason(error))


def reason(error: Exception) -> str:
    """Why a picture could not be read, in a few words."""
    if isinstance(error, UnidentifiedImageError):
        return "no picture in a known format"
    if isinstance(error, Image.DecompressionBombError):
        # Pillow opens none of twice as many.
        return f"more than {MAX_PIXELS:,} pixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return shortened(error, MOST_REASON) or type(error).__name__


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Silence Pillow's warnings of odd pictures, in all threads: enter it before they start."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def decode(
    pictures: Pictures,
    order: NDArray[np.int64],
    spec: ImageSpec,
    *,
    wanted: int,
    keep: bool = True,
    progress: OnProgress | None = None,
) -> Decoded:
    """Decode pictures in the given order until ``wanted`` of them could be read, or there are no more.

    Without ``keep`` the pixels are thrown away: it is then known which pictures can be read. Pixels that
    already are what ``spec`` asks for are taken as they are, and always kept.
    """
    wanted = min(wanted, len(order))
    if isinstance(pictures, ArrayPictures) and pictures.fits(spec):
        return _taken(pictures, order[:wanted])
    shape = (wanted if keep else 0, spec.channels, spec.height, spec.width)
    images = np.empty(shape, dtype=np.uint8)
    rows: list[int] = []
    labels: list[int | None] = []
    skipped: list[Skipped] = []
    looked_at = 0
    with quiet_pillow(), ThreadPoolExecutor(available_cpus()) as pool:
        while len(rows) < wanted and looked_at < len(order):
            chunk = order[looked_at : looked_at + min(CHUNK, wanted - len(rows))].tolist()
            for index, result in zip(
                chunk, pool.map(partial(decode_picture, pictures, spec=spec), chunk), strict=True
            ):
                if isinstance(result, Skipped):
                    skipped.append(result)
                    continue
                if keep:
                    images[len(rows)] = result.pixels
                rows.append(index)
                labels.append(result.label)
            looked_at += len(chunk)
            if progress is not None:
                progress(min(looked_at, wanted), wanted)
    return Decoded(
        rows=np.array(rows, dtype=np.int64),
        images=images[: len(rows)] if keep else None,
        labels=None if None in labels else np.array(labels, dtype=np.int64),
        skipped=tuple(skipped),
        looked_at=looked_at,
    )


def _taken(pictures: ArrayPictures, rows: NDArray[np.int64]) -> Decoded:
    images, labels = pictures.pixels[rows][:, None], pictures.labels[rows]
    return Decoded(rows, images, labels, skipped=(), looked_at=len(rows))
