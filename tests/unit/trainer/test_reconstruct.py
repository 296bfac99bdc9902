import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from service.contract.image_preprocessing import prepare
from tests.fixtures import tiny_models
from tests.fixtures.tiny_models import Trained
from trainer import reconstruct
from trainer.errors import DataError, RunError
from trainer.reconstruct import write_pairs

CELL = 28 + 2


def cell(sheet: Path, row: int, column: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """One picture of a sheet of 28x28 images, two pixels apart."""
    with Image.open(sheet) as image:
        grey = np.asarray(image.convert("L"))
    return grey[2 + row * CELL :, 2 + column * CELL :][:28, :28]


def save_noise(file: Path, size: tuple[int, int] = (28, 28), seed: int = 0) -> Path:
    shape = (size[1], size[0], 3)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(file)
    return file


def test_the_first_test_images_stand_above_their_reconstructions(trained: Trained, tmp_path: Path) -> None:
    console, out = tiny_models.console(), tmp_path / "new" / "pairs.png"
    write_pairs(trained.run.folder, [], out, console)
    images = trained.dataset.test.take(torch.arange(8)).images
    expected = trained.model.reconstruct(images)
    for column in (0, 7):
        assert np.array_equal(cell(out, 0, column), images[column, 0].numpy())
        assert np.array_equal(cell(out, 1, column), expected[column, 0].numpy())
    with Image.open(out) as image:
        assert image.size == (8 * CELL + 2, 2 * CELL + 2)
    lines = re.findall(
        r"^test image (\d): MSE (\S+), PSNR (\S+) dB$", tiny_models.printed(console), re.MULTILINE
    )
    assert [int(index) for index, _, _ in lines] == list(range(8))
    error = float(((images[3].double() - expected[3].double()) / 255).square().mean())
    assert float(lines[3][1]) == pytest.approx(error, abs=6e-6)
    assert float(lines[3][2]) == pytest.approx(-10 * np.log10(error), abs=6e-3)
    assert f"written to {out}" in tiny_models.printed(console)


def test_a_picture_is_made_to_fit_as_the_service_does(trained: Trained, tmp_path: Path) -> None:
    file, out = save_noise(tmp_path / "wide.png", (60, 40)), tmp_path / "pair.png"
    console = tiny_models.console()
    write_pairs(trained.run.folder, [file], out, console)
    with Image.open(file) as picture:
        expected = prepare(picture, trained.exported.manifest.image)
    assert np.array_equal(cell(out, 0, 0), expected[:, :, 0])
    assert f"{file}: MSE " in tiny_models.printed(console)


def test_no_picture_is_left_out_of_the_last_row(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconstruct, "SHOWN", 2)
    files = [save_noise(tmp_path / f"{index}.png", seed=index) for index in range(3)]
    out = tmp_path / "pairs.png"
    write_pairs(trained.run.folder, files, out, tiny_models.console())
    with Image.open(files[2]) as picture:
        expected = prepare(picture, trained.exported.manifest.image)
    assert np.array_equal(cell(out, 2, 0), expected[:, :, 0])
    assert (cell(out, 2, 1) == 255).all()
    assert (cell(out, 3, 1) == 255).all()


def torn(png: bytes) -> bytes:
    """A PNG whose pixels end early, with no chunk after them."""
    start, kept = png.index(b"IDAT"), 500
    chunk = b"IDAT" + png[start + 4 :][:kept]
    checked = struct.pack(">I", kept) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return png[: start - 4] + checked + bytes(300)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"no picture", "is no picture in a known format"),
        ("cut", "cannot be read: "),
        ("torn", "cannot be read: broken PNG file"),
    ],
)
def test_a_picture_that_cannot_be_read_is_named(
    trained: Trained, tmp_path: Path, content: bytes | str | None, complaint: str
) -> None:
    file = tmp_path / "picture.png"
    whole = save_noise(tmp_path / "whole.png").read_bytes()
    if content == "cut":
        content = whole[: len(whole) // 2]
    elif content == "torn":
        content = torn(whole)
    if isinstance(content, bytes):
        file.write_bytes(content)
    with pytest.raises(DataError, match=f"^{re.escape(f'{file} {complaint}')}"):
        write_pairs(trained.run.folder, [file], tmp_path / "pair.png", tiny_models.console())
    assert not (tmp_path / "pair.png").exists()


def test_a_picture_that_is_a_bomb_is_refused(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = save_noise(tmp_path / "large.png", (60, 60))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match=r"large\.png is too large: "):
        write_pairs(trained.run.folder, [file], tmp_path / "pair.png", tiny_models.console())


def test_a_place_that_cannot_be_written_is_an_error(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "pair.png", tmp_path / "pair.unknown"):
        with pytest.raises(RunError, match=f"cannot write {re.escape(str(out))}: "):
            write_pairs(trained.run.folder, [], out, tiny_models.console())


def test_what_is_no_run_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is no run folder: it has no config\.yaml"):
        write_pairs(tmp_path, [], tmp_path / "pair.png", tiny_models.console())
