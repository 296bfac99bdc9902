import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import UnidentifiedImageError

from service.contract.image_preprocessing import prepare
from tests.fixtures import png_builder
from tests.unit.trainer.data.making import GREY_8, RGB_8, ListedPictures, break_off, noise, save
from trainer.data.sources.folder import FolderPictures
from trainer.data.sources.pictures import (
    DecodedPicture,
    Skipped,
    decode_picture,
    open_image,
    quiet_pillow,
    reason,
)


def test_a_picture_is_decoded_as_the_service_prepares_it() -> None:
    image = noise(0, width=13, height=9)
    decoded = decode_picture(ListedPictures([image], [4]), 0, RGB_8)
    assert isinstance(decoded, DecodedPicture)
    assert decoded.label == 4
    assert np.array_equal(decoded.pixels.transpose(1, 2, 0), prepare(image, RGB_8))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "tif"])
def test_a_truncated_picture_is_skipped(tmp_path: Path, suffix: str) -> None:
    path = break_off(save(noise(0, 64, 64), tmp_path / f"half.{suffix}"))
    skipped = decode_picture(FolderPictures(tmp_path, (path.name,), None), 0, GREY_8)
    assert isinstance(skipped, Skipped)
    assert skipped.name == path.name
    assert str(tmp_path) not in skipped.reason


@pytest.mark.parametrize(
    ("side", "why"),
    # From twice the limit on Pillow opens none.
    [(9_500, "9500x9500 is more than 89,478,485 pixels"), (14_000, "more than 89,478,485 pixels")],
)
def test_a_decompression_bomb_is_skipped(tmp_path: Path, side: int, why: str) -> None:
    (tmp_path / "bomb.png").write_bytes(png_builder.bomb(side, side))
    with quiet_pillow():
        skipped = decode_picture(FolderPictures(tmp_path, ("bomb.png",), None), 0, GREY_8)
    assert skipped == Skipped("bomb.png", why)


def test_postscript_is_never_opened(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    noise(0).save(path, "EPS")
    with pytest.raises(UnidentifiedImageError):
        open_image(path)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            UnidentifiedImageError("cannot identify image file '/secret/x.png'"),
            "no picture in a known format",
        ),
        (FileNotFoundError(2, "No such file or directory", "/secret/x.png"), "no such file or directory"),
        (OSError("image file is truncated"), "image file is truncated"),
        (RuntimeError("two\n  lines"), "two lines"),
        (EOFError(), "EOFError"),
    ],
)
def test_a_reason_is_a_few_words(error: Exception, expected: str) -> None:
    assert reason(error) == expected


def test_only_pillow_is_silenced() -> None:
    with quiet_pillow():
        warnings.warn_explicit("odd palette", UserWarning, "Image.py", 1, module="PIL.Image")
        with pytest.raises(UserWarning, match="ours"):
            warnings.warn("ours", UserWarning, stacklevel=1)
