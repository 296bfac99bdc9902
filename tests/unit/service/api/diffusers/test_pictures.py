import io

import numpy as np
import pytest
from PIL import Image

from service.api.diffusers import pictures
from service.api.diffusers.pictures import ImageFormat
from service.api.diffusers.wire import DType
from service.codecs.images import ImageLimits
from service.contract.manifest import ImageSpec
from service.errors import BadImage, BadSize, BadTensor, TooLarge

LIMITS = ImageLimits(max_pixels=4096, max_images=3, max_total_pixels=2**20)
ANY = ImageSpec(channels=3, height=32, width=32, multiple_of=8)
ONE = ImageSpec(channels=1, height=32, width=32)


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (200, 100, 50)).save(file, "PNG")
    return file.getvalue()


def test_a_tensor_is_rounded_and_clipped() -> None:
    tensor = np.array([-2, -1, -0.997, 0, 0.997, 1, 7, 0.5], np.float32).reshape(1, 1, 1, 8).repeat(3, axis=1)
    found = pictures.from_tensor(tensor.repeat(8, axis=2), ANY, LIMITS)
    assert found.dtype == np.uint8
    assert found.shape == (1, 8, 8, 3)
    assert found[0, 0, :, 0].tolist() == [0, 0, 0, 128, 255, 255, 255, 191]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_levels_survive_a_tensor(dtype: DType) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 8, 32, 1).repeat(3, axis=3)
    tensor = pictures.to_tensor(levels, dtype, denormalised=False)
    assert (tensor.min(), tensor.max(), tensor.shape) == (-1, 1, (1, 3, 8, 32))
    np.testing.assert_array_equal(pictures.from_tensor(tensor.astype(np.float32), ANY, LIMITS), levels)
    assert pictures.to_tensor(levels, dtype, denormalised=True).min() == 0


@pytest.mark.parametrize(
    ("shape", "kind", "reason"),
    [
        ((3, 32, 32), BadTensor, r"have the shape \[3, 32, 32\]; they are \[n, 3, height, width\]"),
        ((1, 1, 32, 32), BadTensor, r"\[n, 3, height, width\]"),
        ((1, 3, 32, 30), BadSize, r"32 x 30 pixels \(height x width\); this model takes multiples of 8"),
        ((1, 3, 72, 64), TooLarge, "4096 are allowed by the setting max_pixels"),
        ((4, 3, 8, 8), TooLarge, "3 are allowed by the setting max_images"),
    ],
)
def test_other_tensors_are_refused(shape: tuple[int, ...], kind: type[Exception], reason: str) -> None:
    with pytest.raises(kind, match=reason):
        pictures.from_tensor(np.zeros(shape, np.float32), ANY, LIMITS)


@pytest.mark.parametrize(
    ("spec", "given", "made"),
    [
        (ANY, (40, 32), (32, 40)),
        (ANY, (47, 33), (32, 40)),
        (ANY, (3, 20), (16, 8)),
        (ONE, (47, 33), (32, 32)),
    ],
)
def test_a_picture_gets_a_size_that_the_model_takes(
    spec: ImageSpec, given: tuple[int, int], made: tuple[int, int]
) -> None:
    assert pictures.from_file(png(*given), spec, LIMITS).shape == (1, *made, spec.channels)


def test_what_is_no_picture() -> None:
    with pytest.raises(BadImage, match="is no PNG, JPEG or WebP"):
        pictures.from_file(b"nothing", ANY, LIMITS)
    with pytest.raises(TooLarge, match="max_pixels"):
        pictures.from_file(png(100, 100), ANY, LIMITS)


@pytest.mark.parametrize(("image_format", "channels"), [("png", 1), ("png", 3), ("jpg", 1), ("jpg", 3)])
def test_files(image_format: ImageFormat, channels: int) -> None:
    image = np.full((8, 16, channels), 77, np.uint8)
    opened = Image.open(io.BytesIO(pictures.to_file(image, image_format)))
    assert opened.format == {"png": "PNG", "jpg": "JPEG"}[image_format]
    assert abs(np.asarray(opened, np.int32).reshape(image.shape) - 77).max() <= 1
