from pathlib import Path

import pytest
from PIL import Image

from tests.unit.trainer.data.making import ListedPictures, noise, save
from trainer.data.sizing import ImageOptions, survey
from trainer.data.sources.folder import FolderPictures
from trainer.errors import ConfigError, DataError


def test_the_size_that_all_pictures_have_is_found() -> None:
    spec = ImageOptions(fit="pad", background=9).spec(ListedPictures([noise(0, 12, 7), noise(1, 12, 7)]))
    assert (spec.width, spec.height, spec.channels, spec.fit, spec.background) == (12, 7, 3, "pad", 9)


def test_several_sizes_need_one_to_be_given() -> None:
    pictures = ListedPictures([noise(0, 12, 7), noise(1, 12, 7), noise(2, 5, 5)])
    with pytest.raises(DataError, match=r"2 different sizes, most often 12x7 \(2\), 5x5 \(1\).*--image-size"):
        ImageOptions().spec(pictures)
    assert ImageOptions(size=6).spec(pictures).width == 6


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16", "I", "F"])
def test_grey_modes_give_one_channel(mode: str) -> None:
    image = Image.new("L", (8, 8), 7).convert(mode) if mode != "I;16" else Image.new(mode, (8, 8), 7)
    assert ImageOptions().spec(ListedPictures([image])).channels == 1


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK", "YCbCr", "P"])
def test_one_picture_in_colour_gives_three_channels(mode: str) -> None:
    coloured = noise(0).convert(mode)
    assert ImageOptions().spec(ListedPictures([noise(1, mode="L"), coloured])).channels == 3


def test_a_palette_of_greys_is_grey() -> None:
    assert survey(ListedPictures([noise(0, mode="L").convert("P")])).grey


def test_a_picture_on_its_side_is_measured_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(0, 12, 7).save(tmp_path / "a.jpg", exif=exif)
    save(noise(1, 7, 12), tmp_path / "b.jpg")
    assert survey(FolderPictures(tmp_path, ("a.jpg", "b.jpg"), None)).common_size() == (7, 12)


def test_broken_pictures_are_not_surveyed() -> None:
    assert survey(ListedPictures([OSError("gone"), noise(0)])).common_size() == (8, 8)
    with pytest.raises(DataError, match=r"none of 2 pictures can be opened; the first is picture 0 \(gone\)"):
        survey(ListedPictures([OSError("gone"), OSError("lost")]))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (ImageOptions(size=0), "image width is 0"),
        (ImageOptions(channels=2), "image channels is 2"),
        (ImageOptions(fit="squeeze"), "image fit is 'squeeze'.*stretch"),
        (ImageOptions(filter="blur"), "image filter is 'blur'.*bicubic"),
        (ImageOptions(background=256), "image background is 256"),
    ],
)
def test_options_out_of_bounds_are_refused(options: ImageOptions, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        options.check()
