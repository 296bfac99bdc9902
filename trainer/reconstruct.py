"""Pictures above their reconstructions by the model of a run folder."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from rich.console import Console
from torch import Tensor

from service.contract.image_preprocessing import prepare
from service.contract.manifest import ImageSpec
from trainer.errors import DataError, RunError
from trainer.evaluation.reconstructions import mean_squared_errors, peak_signal_to_noise_ratios
from trainer.image_sheets import PAPER, save_png, side_by_side
from trainer.pipeline import restored
from trainer.training.run_folder import RunFolder

SHOWN = 8


def write_pairs(run: Path, files: Sequence[Path], out: Path, console: Console) -> None:
    """Write a PNG of pictures, made to fit the model, above their reconstructions by its latest checkpoint.

    Without ``files`` they are the first test images. Raises RunError for what is no run folder or cannot be
    written, DataError for a picture that cannot be read.
    """
    model, dataset = restored(RunFolder.open(run), console)
    if files:
        images = torch.cat([_picture(file, model.image_spec()) for file in files])
    else:
        images = dataset.test.take(torch.arange(min(SHOWN, len(dataset.test)))).images
    reconstructions = torch.cat([model.reconstruct(image) for image in images.split(1)])
    columns = min(SHOWN, len(images))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        save_png(side_by_side(_filled(images, columns), _filled(reconstructions, columns), columns), out)
    except (OSError, ValueError) as error:
        raise RunError(f"cannot write {out}: {error}") from error
    errors = mean_squared_errors(images.permute(0, 2, 3, 1), reconstructions.permute(0, 2, 3, 1))
    names = [str(file) for file in files] or [f"test image {index}" for index in range(len(images))]
    for name, mse, ratio in zip(names, errors, peak_signal_to_noise_ratios(errors), strict=True):
        console.print(f"{name}: MSE {mse:.5f}, PSNR {ratio:.2f} dB")
    console.print(f"written to {out}, originals above reconstructions")


def _picture(file: Path, spec: ImageSpec) -> Tensor:
    """A picture file as the model takes it: uint8 ``(1, C, H, W)``."""
    try:
        with Image.open(file) as picture:
            pixels = prepare(picture, spec)
    except UnidentifiedImageError as error:
        raise DataError(f"{file} is no picture in a known format") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{file} is too large: {error}") from error
    except (OSError, SyntaxError) as error:  # Pillow raises both for a broken file
        reason = error.strerror if isinstance(error, OSError) else None
        raise DataError(f"{file} cannot be read: {reason or error}") from error
    return torch.tensor(pixels).permute(2, 0, 1)[None]


def _filled(images: Tensor, columns: int) -> Tensor:
    """Images with white ones after them, to a last row as long as the others."""
    blank = images.new_full((-len(images) % columns, *images.shape[1:]), PAPER)
    return torch.cat([images, blank])
