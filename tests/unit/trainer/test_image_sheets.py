from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.fixtures import tiny_models
from trainer.image_sheets import GAP, PANEL_GAP, PAPER, TITLE_HEIGHT, panels, save_png, sheet, side_by_side


def test_each_row_of_originals_is_above_its_reconstructions() -> None:
    originals, reconstructions = (
        tiny_models.images(4, height=8, width=8),
        tiny_models.images(4, height=8, width=8, seed=1),
    )
    picture = side_by_side(originals, reconstructions, columns=2)
    assert picture.shape == (3, 4 * (8 + GAP) + GAP, 2 * (8 + GAP) + GAP)
    rows = [originals[:2], reconstructions[:2], originals[2:], reconstructions[2:]]
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            top, left = GAP + row * (8 + GAP), GAP + column * (8 + GAP)
            assert torch.equal(picture[0, top : top + 8, left : left + 8], image[0])
    assert torch.all(picture[:, :GAP] == PAPER)


@pytest.mark.parametrize(("count", "shown"), [(1, 1), (15, 15), (16, 16), (20, 16), (32, 32)])
def test_rows_are_full(count: int, shown: int) -> None:
    images = tiny_models.images(count, channels=3, height=8, width=8)
    columns = min(count, 16)
    expected = 2 * (shown // columns) * (8 + GAP) + GAP, columns * (8 + GAP) + GAP
    assert side_by_side(images, images).shape == (3, *expected)


def test_a_sheet_shows_images_row_by_row() -> None:
    images = tiny_models.images(6, channels=3, height=5, width=8)
    picture = sheet(images, columns=3)
    assert picture.shape == (3, 2 * (5 + GAP) + GAP, 3 * (8 + GAP) + GAP)
    for place, image in enumerate(images):
        top, left = GAP + place // 3 * (5 + GAP), GAP + place % 3 * (8 + GAP)
        assert torch.equal(picture[:, top : top + 5, left : left + 8], image)


def test_panels_stand_side_by_side_below_their_titles() -> None:
    left, right = tiny_models.images(1, 3, 40, 60)[0], tiny_models.images(1, 3, 40, 90, seed=1)[0]
    picture = panels({"one": left, "other": right})
    assert picture.dtype == torch.uint8
    assert picture.shape == (3, TITLE_HEIGHT + 40, 60 + PANEL_GAP + 90)
    assert torch.equal(picture[:, TITLE_HEIGHT:, :60], left)
    assert torch.equal(picture[:, TITLE_HEIGHT:, 60 + PANEL_GAP :], right)
    assert (picture[:, :, 60 : 60 + PANEL_GAP] == PAPER).all()
    # Each title is above its own.
    titles = picture[0, :TITLE_HEIGHT] < PAPER
    assert titles[:, :60].any()
    assert titles[:, 60 + PANEL_GAP :].any()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_written_as_it_is(tmp_path: Path, channels: int) -> None:
    pixels = tiny_models.images(1, channels, 5, 7)[0]
    save_png(pixels, tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as image:
        found = np.atleast_3d(np.asarray(image))
    assert np.array_equal(found, pixels.permute(1, 2, 0).numpy())
