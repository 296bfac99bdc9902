"""The pixels that a model gets of a picture: the whole of it, and the further views that are asked for.

    flip        the mirror image
    ten-crop    the four corners and the centre of the picture at 1.1 times the size of the model, and the
                mirror images of these five

LlamaGen (2406.06525) trains on the ten crops.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from service.codecs.images import ImageLimits, Pixels, from_files, upright
from service.codecs.large.image_file import LargeFile, open_large
from service.codecs.large.row_reader import ImageRows
from service.contract.image_preprocessing import fit, pad_edges, pixels
from service.contract.manifest import ImageSpec

FLIP, TEN_CROP = VIEWS = ("flip", "ten-crop")
WHOLE = "whole"

_ENLARGED = 1.1
# Top and left of each crop, as shares of the room for it.
_CROPS = {
    "top-left": (0.0, 0.0),
    "top-right": (0.0, 1.0),
    "bottom-left": (1.0, 0.0),
    "bottom-right": (1.0, 1.0),
    "centre": (0.5, 0.5),
}


class Prepared(NamedTuple):
    """A picture: its upright size, and the pixels of each view, uint8 ``(H, W, C)``.

    Those of a picture that is too large to be decoded at once are read row by row.
    """

    height: int
    width: int
    views: list[tuple[str, Pixels | ImageRows]]


@dataclass(frozen=True)
class Preparation:
    """Turns picture files into the pixels of a model, as the service does.

    Without ``resize`` a picture keeps its size, and is padded by its edge to one that the model takes.
    """

    spec: ImageSpec
    limits: ImageLimits
    views: Collection[str] = ()
    resize: bool = True

    @property
    def count(self) -> int:
        """How many views there are of a picture."""
        return (2 if FLIP in self.views else 1) + (2 * len(_CROPS) if TEN_CROP in self.views else 0)

    def __call__(self, data: bytes) -> Prepared:
        """The views of a picture. Raises EmptyBody, BadImage, BadSize or TooLarge, as a request would."""
        if not self.resize and (file := open_large(data, self.limits)) is not None:
            return self._large(file)
        fitted = from_files([data], self.spec, self.limits, resize=self.resize)
        whole, (width, height) = fitted.pixels[0], fitted.sizes[0]
        views: list[tuple[str, Pixels | ImageRows]] = [(WHOLE, whole)]
        if FLIP in self.views:
            views.append((FLIP, pad_edges(fitted.crop(fitted.pixels)[0][:, ::-1], *whole.shape[:2])))
        if TEN_CROP in self.views:
            views.extend(self._crops(data))
        return Prepared(height, width, views)

    def _large(self, file: LargeFile) -> Prepared:
        turned = {WHOLE: file}
        if FLIP in self.views:
            turned[FLIP] = file.mirrored()
        views = [(name, ImageRows(each, self.spec, self.limits)) for name, each in turned.items()]
        return Prepared(*views[0][1].unpadded, [*views])

    def _crops(self, data: bytes) -> Iterator[tuple[str, Pixels]]:
        height, width = self.spec.height, self.spec.width
        size = (round(_ENLARGED * width), round(_ENLARGED * height))
        enlarged = pixels(fit(upright(data, None, self.spec, self.limits, "the image"), self.spec, size))
        for name, (down, right) in _CROPS.items():
            top, left = int(down * (size[1] - height)), int(right * (size[0] - width))
            crop = enlarged[top : top + height, left : left + width]
            yield name, crop
            yield f"{name}-flip", crop[:, ::-1]
