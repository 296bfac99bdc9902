"""The size and the channels of the images: from the options, or from a survey of the pictures."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image
from pydantic import ValidationError

from service.contract.manifest import ImageSpec
from trainer.data.sources.pictures import OnProgress, Pictures, Skipped, quiet_pillow, reason
from trainer.errors import ConfigError, DataError

SAMPLE = 1000
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height


@dataclass(frozen=True)
class ImageOptions:
    """The options of the images; what is None is found in the pictures.

    ``size`` is both height and width in pixels, ``channels`` 1 or 3. ``fit``, ``filter`` and ``background``
    are those of ``ImageSpec``, which also checks them.
    """

    size: int | None = None
    channels: int | None = None
    fit: str = "stretch"
    filter: str = "bilinear"
    background: int = 0

    def check(self) -> None:
        """Raise ConfigError for a value that no ``ImageSpec`` can have."""
        self._spec(self.size, self.size, self.channels)

    def spec(self, pictures: Pictures, progress: OnProgress | None = None) -> ImageSpec:
        """The spec of the images made of ``pictures``.

        Size and channels are found in up to 1,000 of them, evenly spread: the size that all have, and one
        channel if all are greyscale (by their mode), otherwise three. Raises ConfigError for a value that
        ``ImageSpec`` refuses, and DataError if no size is given and the pictures have several.
        """
        if self.size is not None and self.channels is not None:
            return self._spec(self.size, self.size, self.channels)
        found = survey(pictures, progress)
        width, height = found.common_size() if self.size is None else (self.size, self.size)
        return self._spec(width, height, self.channels or (1 if found.grey else 3))

    def _spec(self, width: int | None, height: int | None, channels: int | None) -> ImageSpec:
        try:
            return ImageSpec.model_validate(
                {
                    "width": 1 if width is None else width,
                    "height": 1 if height is None else height,
                    "channels": 1 if channels is None else channels,
                    "fit": self.fit,
                    "filter": self.filter,
                    "background": self.background,
                }
            )
        except ValidationError as error:
            raise ConfigError(
                "; ".join(f"image {p['loc'][0]} is {p['input']!r}: {p['msg']}" for p in error.errors())
            ) from error


@dataclass(frozen=True)
class Survey:
    """What a sample of pictures is like: how many have which ``(width, height)``, and if all are grey."""

    sizes: Counter[tuple[int, int]]
    grey: bool

    def common_size(self) -> tuple[int, int]:
        """The ``(width, height)`` of every picture. Raises DataError if there are several."""
        if len(self.sizes) == 1:
            return next(iter(self.sizes))
        examples = ", ".join(f"{w}x{h} ({count:,})" for (w, h), count in self.sizes.most_common(3))
        raise DataError(
            f"the pictures have {len(self.sizes):,} different sizes, most often {examples}; "
            "say with --image-size which one they should get"
        )


def survey(pictures: Pictures, progress: OnProgress | None = None, most: int = SAMPLE) -> Survey:
    """Open up to ``most`` pictures without decoding them. Raises DataError if none can be opened."""
    chosen = _spread(len(pictures), most)
    sizes: Counter[tuple[int, int]] = Counter()
    grey = True
    broken: list[Skipped] = []
    with quiet_pillow():
        for done, index in enumerate(chosen, start=1):
            try:
                with pictures.open(index).image as image:
                    sizes[_upright_size(image)] += 1
                    grey = grey and _is_grey(image)
            except Exception as error:  # as in decode_picture: a broken picture may bring about anything
                broken.append(Skipped(pictures.name(index), reason(error)))
            if progress is not None:
                progress(done, len(chosen))
    if not sizes:
        raise DataError(f"none of {len(broken):,} pictures can be opened; the first is {broken[0]}")
    return Survey(sizes, grey)


def _spread(count: int, most: int) -> Sequence[int]:
    return range(count) if count <= most else np.linspace(0, count - 1, most, dtype=int).tolist()


def _upright_size(image: Image.Image) -> tuple[int, int]:
    # Reading EXIF decodes a whole PNG, so a square picture is not asked.
    if image.width != image.height and image.getexif().get(ExifTags.Base.Orientation) in SIDEWAYS:
        return image.height, image.width
    return image.size


def _is_grey(image: Image.Image) -> bool:
    if image.mode == "P":
        palette = np.array(image.getpalette("RGB")).reshape(-1, 3)
        return bool((palette == palette[:, :1]).all())
    return image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")
