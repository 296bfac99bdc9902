import numpy as np
import pytest

from service.api.diffusers import wire
from service.errors import BadTensor


def test_float16_and_float32_are_read_as_they_are() -> None:
    values = np.array([[1.5, -2.25, 0.0]], np.float32)
    for dtype in ("<f2", "<f4"):
        name = "float16" if dtype == "<f2" else "float32"
        read = wire.read(values.astype(dtype).tobytes(), name, [1, 3], "latents")  # type: ignore[arg-type]
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (1.0, 0x3F80),
        (-2.0, 0xC000),
        # Halfway between two: to the even one, below and above.
        (1.00390625, 0x3F80),
        (1.01171875, 0x3F82),
        (1.0039063692092896, 0x3F81),
        # To the next power of two.
        (1.9999998807907104, 0x4000),
    ],
)
def test_bfloat16_is_rounded_to_the_nearest(value: float, stored: int) -> None:
    values = np.array([value], np.float32)
    assert wire.stored(values, "bfloat16").tolist() == [stored]
    read = wire.read(np.array([stored], "<u2").tobytes(), "bfloat16", [1], "latents")
    assert abs(read[0] - value) <= abs(value) / 256


def test_what_does_not_fit_its_shape_or_is_not_finite() -> None:
    with pytest.raises(BadTensor, match=r"latents of float16 \[1, 4\] have 8 bytes, and the body has 7"):
        wire.read(bytes(7), "float16", [1, 4], "latents")
    with pytest.raises(BadTensor, match="latents have a value that is not finite"):
        wire.read(np.array([0x7F80], "<u2").tobytes(), "bfloat16", [1], "latents")
