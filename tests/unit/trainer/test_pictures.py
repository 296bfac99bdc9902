import io
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from fastapi.testclient import TestClient
from PIL import Image
from rich.console import Console

from service.api.app import create_app
from service.contract.image_preprocessing import prepare
from service.settings import Settings
from tests.fixtures import png_builder, tiny_models
from tests.fixtures.tiny_models import Trained
from trainer import pictures
from trainer.__main__ import main
from trainer.errors import DataError, RunError
from trainer.evaluation.published import Published

CELL = 28 + 2


def cell(sheet: Path, row: int, column: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """One picture of a sheet of 28x28 images, two pixels apart."""
    with Image.open(sheet) as image:
        grey = np.asarray(image.convert("L"))
    return grey[row * CELL :, column * CELL :][:28, :28]


def write(trained: Trained, files: list[Path], out: Path, console: Console | None = None) -> None:
    published = Published.find(trained.exported.folder)
    pictures.write_reconstructions(published, files, out, console or tiny_models.console())


def save_noise(file: Path, size: tuple[int, int] = (28, 28), seed: int = 0) -> Path:
    shape = (size[1], size[0], 3)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(file)
    return file


def test_the_first_test_images_stand_above_their_reconstructions(trained: Trained, tmp_path: Path) -> None:
    console, out = tiny_models.console(), tmp_path / "new" / "pairs.png"
    write(trained, [], out, console)
    images = trained.dataset.test.take(torch.arange(8)).images
    expected = trained.model.reconstruct(images)
    for column in (0, 7):
        assert np.array_equal(cell(out, 0, column), images[column, 0].numpy())
        # Of torch, at most a level away.
        difference = cell(out, 1, column).astype(int) - expected[column, 0].numpy()
        assert abs(difference).max() <= 1
    with Image.open(out) as image:
        assert image.size == (8 * CELL - 2, 2 * CELL - 2)
    lines = re.findall(
        r"^test image (\d): MSE (\S+), PSNR (\S+) dB$", tiny_models.printed(console), re.MULTILINE
    )
    assert [int(index) for index, _, _ in lines] == list(range(8))
    error = float(((images[3].double() - expected[3].double()) / 255).square().mean())
    assert float(lines[3][1]) == pytest.approx(error, rel=1e-3)
    assert float(lines[3][2]) == pytest.approx(-10 * np.log10(error), abs=2e-2)
    assert f"written to {out}" in tiny_models.printed(console)


def test_a_picture_is_made_to_fit_as_the_service_does(trained: Trained, tmp_path: Path) -> None:
    file, out = save_noise(tmp_path / "wide.png", (60, 40)), tmp_path / "pair.png"
    console = tiny_models.console()
    write(trained, [file], out, console)
    with Image.open(file) as picture:
        expected = prepare(picture, trained.exported.manifest.image)
    assert np.array_equal(cell(out, 0, 0), expected[:, :, 0])
    assert f"{file}: MSE " in tiny_models.printed(console)


def test_no_picture_is_left_out_of_the_last_row(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "SHOWN", 2)
    files = [save_noise(tmp_path / f"{index}.png", seed=index) for index in range(3)]
    out = tmp_path / "pairs.png"
    write(trained, files, out)
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
        (None, "cannot be read: no such file or directory"),
        (b"no picture", "cannot be read: no picture in a known format"),
        (png_builder.bomb(9_500, 9_500), "cannot be read: 9500x9500 is more than 89,478,485 pixels"),
        (png_builder.bomb(60_000, 60_000), "cannot be read: more than 89,478,485 pixels"),
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
        write(trained, [file], tmp_path / "pair.png")
    assert not (tmp_path / "pair.png").exists()


def test_a_place_that_cannot_be_written_is_an_error(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "pair.png", tmp_path / "pair.unknown"):
        with pytest.raises(RunError, match=f"cannot write {re.escape(str(out))}: "):
            write(trained, [], out)


def test_neither_torch_nor_the_data_is_needed_for_a_picture_and_for_samples(
    generating: Trained, tmp_path: Path
) -> None:
    folder, file = generating.exported.folder, save_noise(tmp_path / "a.png")
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from click.testing import CliRunner; from trainer.__main__ import main\n"
        "for arguments in (sys.argv[1:5] + ['--image', sys.argv[5]], ['sample', *sys.argv[2:5]]):\n"
        "    result = CliRunner().invoke(main, arguments)\n"
        "    assert result.exit_code == 0, result.output\n"
    )
    arguments = ["reconstruct", str(folder), "--out", str(tmp_path / "out.png"), str(file)]
    asked = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    assert asked.returncode == 0, asked.stderr


def draw(folder: Path, out: Path, *flags: str) -> Result:
    return CliRunner().invoke(main, ["sample", str(folder), "--out", str(out), *flags])


@pytest.mark.parametrize(
    ("flags", "query"),
    [
        (["--label=7", "--n=16", "--seed=1"], {"label": "7", "n": 16, "seed": 1}),
        (["--n=1", "--seed=3"], {"n": 1, "seed": 3}),
        (["--n=5", "--set=top_k=2", "--method=autoregressive"], {"n": 5, "seed": 0, "top_k": 2}),
    ],
)
def test_samples_are_those_of_the_service(
    generating: Trained, tmp_path: Path, flags: list[str], query: dict[str, Any]
) -> None:
    folder, out = generating.exported.folder, tmp_path / "samples.png"
    result = draw(folder, out, *flags)
    assert result.exit_code == 0, result.output
    assert result.output.endswith(f"written to {out}\n")
    with TestClient(create_app(Settings(models=(str(folder.parent),), provider="cpu"))) as service:
        response = service.post("/sample", params=query)
    assert response.status_code == 200
    with Image.open(out) as ours, Image.open(io.BytesIO(response.content)) as theirs:
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (
            ["--label=frog"],
            "tiny has no class 'frog'; it has 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 (indices 0 to 9).",
        ),
        (["--label=10"], "tiny has no class '10'; it has 0, "),
        (["--method=autoregresive"], "it has autoregressive. Did you mean 'autoregressive'?"),
        (["--set=topk=1"], "autoregressive has no parameter 'topk'; it has "),
        (["--set=temperature=-1"], "autoregressive.temperature is float32 in "),
        (["--set=1"], "--set takes NAME=NUMBER, not '1'"),
    ],
)
def test_what_the_model_does_not_have_is_told(
    generating: Trained, tmp_path: Path, flags: list[str], complaint: str
) -> None:
    result = draw(generating.exported.folder, tmp_path / "samples.png", *flags)
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_model_without_a_sampler_cannot_sample(trained: Trained, tmp_path: Path) -> None:
    result = draw(trained.exported.folder, tmp_path / "samples.png")
    assert (result.exit_code, result.stderr) == (2, "error: tiny has no method to sample with\n")
