"""Images of diffusers to pixels of a model and back.

A tensor of images has the channels first, ``(N, C, H, W)``, and values in [-1, 1], or in [0, 1] once
diffusers has denormalised it. A model takes and gives uint8 ``(N, H, W, C)``, so a value of a tensor is
rounded to one of 256 levels.
"""

import io
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.api.diffusers import wire
from service.api.diffusers.wire import DType
from service.codecs import images
from service.codecs.images import ImageLimits, Pixels
from service.contract.image_preprocessing import fit, pixels
from service.contract.manifest import ImageSpec
from service.errors import BadSize, BadTensor

ImageFormat = Literal["png", "jpg"]
MEDIA_TYPES = {"png": "image/png", "jpg": "image/jpeg"}

# Out of 100: no visible loss, with twice the bytes of Pillow's default.
_JPEG_QUALITY = 95


def from_tensor(tensor: NDArray[np.float32], spec: ImageSpec, limits: ImageLimits) -> Pixels:
    """The pixels of images, float32 ``(N, C, H, W)``; values outside of [-1, 1] are clipped.

    Raises BadTensor for another shape, BadSize for a size that the model does not take, BadValue or TooLarge.
    """
    shape = list(tensor.shape)
    if tensor.ndim != 4 or shape[1] != spec.channels:
        detail = f"the images have the shape {shape}; they are [n, {spec.channels}, height, width]"
        raise BadTensor(detail, given=shape, allowed=[None, spec.channels, None, None])
    height, width = shape[2:]
    limits.check_count(shape[0])
    limits.check_pixels("the images have", height, width)
    limits.check_total(shape[0], height, width)
    if not spec.allows(height, width):
        step = spec.multiple_of
        sizes = f"multiples of {step}" if step else f"{spec.height} x {spec.width}"
        detail = f"the images have {height} x {width} pixels (height x width); this model takes {sizes}"
        raise BadSize(detail, given=[height, width], allowed=sizes)
    levels = np.rint((tensor.clip(-1, 1) + 1) * np.float32(127.5))
    return np.ascontiguousarray(levels.astype(np.uint8).transpose(0, 2, 3, 1))


def from_file(data: bytes, spec: ImageSpec, limits: ImageLimits) -> Pixels:
    """The pixels ``(1, H, W, C)`` of a PNG, JPEG or WebP file.

    If the model takes several sizes, a picture of another size shrinks to the next smaller one, as in
    diffusers; else it is resized by the model's rule. Raises EmptyBody, BadImage or TooLarge.
    """
    picture = images.upright(data, None, spec, limits, "the image")
    step = spec.multiple_of
    if step is None:
        picture = fit(picture, spec, (spec.width, spec.height))
    else:
        width, height = (max(step, side - side % step) for side in picture.size)
        if (width, height) != picture.size:
            picture = picture.resize((width, height), Image.Resampling.LANCZOS)
        # A side shorter than ``step`` grew, perhaps beyond the limit.
        limits.check_pixels("the image has", height, width)
    return np.ascontiguousarray(pixels(picture)[None])


def to_tensor(decoded: Pixels, dtype: DType, *, denormalised: bool) -> NDArray[Any]:
    """Images as ``(N, C, H, W)``, as they are sent: in [-1, 1], or if ``denormalised`` in [0, 1]."""
    return _levels(dtype, denormalised)[decoded.transpose(0, 3, 1, 2)]


def to_colours(decoded: Pixels) -> Pixels:
    """Images with three channels: the client reads no greyscale."""
    return decoded if decoded.shape[3] == 3 else decoded.repeat(3, axis=3)


def to_file(image: Pixels, image_format: ImageFormat) -> bytes:
    """One image, uint8 ``(H, W, C)``, as a file."""
    if image_format == "png":
        return images.to_png(image)
    buffer = io.BytesIO()
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    picture.save(buffer, format="JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


@lru_cache
def _levels(dtype: DType, denormalised: bool) -> NDArray[Any]:
    """The value that a tensor has for each of the 256 levels."""
    levels = np.arange(256, dtype=np.float64)
    values = levels / 255 if denormalised else levels / 127.5 - 1
    return wire.stored(values.astype(np.float32), dtype)
