from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.fixtures import tiny_models
from trainer.image_sheets import (
    GAP,
    MOST_COLUMNS,
    NAME_LENGTH,
    NAME_LINE,
    PANEL_GAP,
    PAPER,
    TITLE_HEIGHT,
    class_sheet,
    panels,
    save_png,
    sheet,
    sheet_labels,
    side_by_side,
)


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


def test_a_picture_without_colours_is_written_in_grey(tmp_path: Path) -> None:
    grey = tiny_models.images(1, 1, 5, 7)[0]
    save_png(grey.expand(3, 5, 7), tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as image:
        assert image.mode == "L"
        assert np.array_equal(np.asarray(image), grey[0].numpy())


@pytest.mark.parametrize(
    ("classes", "columns", "rows"), [(8, 8, 10), (10, 10, 10), (37, 37, 2), (300, 100, 1)]
)
def test_a_sheet_has_a_column_for_each_class(classes: int, columns: int, rows: int) -> None:
    labels = sheet_labels(classes)
    assert torch.equal(labels, torch.arange(columns).repeat(rows))
    assert labels.dtype == torch.int64


def test_a_sheet_of_large_images_has_fewer_rows() -> None:
    assert torch.equal(sheet_labels(8, 128**2), torch.arange(8).repeat(4))
    assert len(sheet_labels(0, 128**2)) == 30
    assert len(sheet_labels(100, 512**2)) == 100


def test_without_classes_a_sheet_is_of_ten_columns() -> None:
    assert torch.equal(sheet_labels(0), torch.zeros(100, dtype=torch.int64))
    drawn = tiny_models.images(100, 3, 8, 8)
    assert torch.equal(class_sheet(drawn, ()), sheet(drawn, 10))


def named(names: list[str], size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The part of a sheet with the names, the part with the images, and the images."""
    drawn = tiny_models.images(len(sheet_labels(len(names))), 3, size, size)
    picture = class_sheet(drawn, names)
    below = sheet(drawn, len(names)).shape[1]
    return picture[:, :-below], picture[:, -below:], drawn


@pytest.mark.parametrize(
    ("names", "size", "height"),
    [
        ([*"0123456789"], 28, NAME_LINE),
        (["food-drink", "animals-nature", "activities"], 64, 2 * NAME_LINE),
    ],
)
def test_names_that_fit_stand_upright_above_their_columns(names: list[str], size: int, height: int) -> None:
    above, below, drawn = named(names, size)
    assert torch.equal(below, sheet(drawn, len(names)))
    assert above.shape[1] == height + 2 * GAP
    for column in range(len(names)):
        left = GAP + column * (size + GAP)
        assert (above[:, :, left : left + size] < PAPER).any()
        # Nothing of a name is above the gap between columns.
        assert (above[:, :, left - GAP : left] == PAPER).all()


def test_names_that_do_not_fit_are_turned() -> None:
    names = ["activities", "animals-nature", "food-drink", "smileys-emotion"]
    above, below, drawn = named(names, 32)
    assert torch.equal(below, sheet(drawn, len(names)))
    inked = [(above[0, :, GAP + 34 * column :][:, :32] < PAPER).any(dim=1).sum() for column in range(4)]
    # Each reads from its column up, as long as it is.
    assert inked[0] < inked[3] <= NAME_LENGTH
    assert inked[3] > 80


def test_a_long_name_is_cut() -> None:
    above, _, _ = named(["a name that nobody would give a folder of pictures", "b"], 28)
    assert NAME_LENGTH - 20 < above.shape[1] <= NAME_LENGTH + 2 * GAP


def test_many_classes_go_on_below() -> None:
    names = [f"class {index}" for index in range(37)]
    drawn = tiny_models.images(74, 3, 28, 28)
    picture = class_sheet(drawn, names)
    assert picture.shape[2] == MOST_COLUMNS * 30 + GAP
    half = picture.shape[1] // 2
    first, second = (
        sheet(drawn[[*range(20), *range(37, 57)]], 20),
        sheet(drawn[[*range(20, 37), *range(57, 74)]], 17),
    )
    assert torch.equal(picture[:, half - 62 : half], first)
    assert torch.equal(picture[:, -62:, : second.shape[2]], second)


def test_the_columns_of_tiny_images_stand_apart() -> None:
    names, drawn = [*"0123456789"], tiny_models.images(100, 3, 4, 4)
    picture = class_sheet(drawn, names)
    assert picture.shape[2] == 10 * (NAME_LINE + GAP) + GAP
