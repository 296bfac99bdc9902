"""Pictures by a published model: originals above their reconstructions, and samples.

Both run the published graphs as the service does, without torch.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from service.contract.image_grid import grid
from service.contract.image_preprocessing import prepare
from service.contract.manifest import ImageSpec, Input, Manifest, Role
from trainer.data.sources.pictures import check_pixels, open_image, quiet_pillow, reason
from trainer.errors import ConfigError, DataError, RunError, nearest
from trainer.evaluation.exported_model import RECONSTRUCT, SAMPLE, ExportedModel, psnr
from trainer.evaluation.published import Published, check_parameters

Pixels = NDArray[np.uint8]

SHOWN = 8
WHITE = 255
PREFERRED = "prior"
# Names that an error lists.
LISTED = 20


def write_reconstructions(published: Published, files: Sequence[Path], out: Path, console: Console) -> None:
    """Write pictures, made to fit the model, above their reconstructions, as one picture.

    Without ``files`` they are the first test images of the data that the model was trained on. Raises
    RunError for a picture that cannot be written, DataError for one that cannot be read.
    """
    _check_out(out)
    spec = published.manifest.image
    images = np.stack([_read(file, spec) for file in files]) if files else _test_images(published)
    decoded = np.concatenate([_reconstructed(published.model, images[[row]]) for row in range(len(images))])
    columns = min(SHOWN, len(images))
    rows = zip(_in_rows(images, columns), _in_rows(decoded, columns), strict=True)
    _save(grid(np.concatenate([part for pair in rows for part in pair]), columns), out)
    errors = (((images.astype(np.float64) - decoded) / 255) ** 2).mean(axis=(1, 2, 3))
    names = [str(file) for file in files] or [f"test image {index}" for index in range(len(images))]
    for name, mse, ratio in zip(names, errors, psnr(errors), strict=True):
        console.print(f"{name}: MSE {mse:.5f}, PSNR {ratio:.2f} dB")
    console.print(f"written to {out}, originals above reconstructions")


def write_samples(
    published: Published,
    method: str | None,
    label: str | None,
    count: int,
    seed: int,
    parameters: Sequence[str],
    out: Path,
    console: Console,
) -> None:
    """Write samples as one picture: for a seed, what the service answers to ``/sample``.

    Raises ConfigError for a method, label or parameter that the model does not have, RunError for a picture
    that cannot be written.
    """
    _check_out(out)
    model, manifest = published.model, published.manifest
    name = _method(model, manifest, method)
    inputs = (item for each in model.pipeline(SAMPLE + name) for item in model.operations[each].inputs)
    index = _label(manifest, next((item for item in inputs if item.role is Role.label), None), label)
    values = _values(parameters)
    check_parameters(model, {name: values})
    labels = None if index is None else np.full(count, index, np.int64)
    images = model.draw(SAMPLE + name, count, seed, labels, values).arrays[Role.images]
    _save(grid(images), out)
    of = "" if index is None or manifest.labels is None else f" of class {manifest.labels[index]!r}"
    what = "1 sample" if count == 1 else f"{count:,} samples"
    console.print(f"{what}{of} by {manifest.name}, method {name}, seed {seed}: written to {out}")


def _method(model: ExportedModel, manifest: Manifest, given: str | None) -> str:
    methods = [name.removeprefix(SAMPLE) for name in model.samplers]
    if not methods:
        raise ConfigError(f"{manifest.name} has no method to sample with")
    if given is None:
        return PREFERRED if PREFERRED in methods else methods[0]
    if given not in methods:
        raise ConfigError(
            f"{manifest.name} has no method {given!r}; it has {_list(methods)}.{nearest(given, methods)}"
        )
    return given


def _label(manifest: Manifest, taken: Input | None, given: str | None) -> int | None:
    """The index of a class by its name or its index; ``taken`` is the input for it. Raises ConfigError."""
    names = manifest.labels or ()
    if given is None:
        if taken is not None and taken.default is None:
            raise ConfigError(f"{manifest.name} draws of a class: say with --label which of {_list(names)}")
        return None
    if taken is None:
        raise ConfigError(f"--label is {given!r}, but {manifest.name} does not draw by class")
    if given in names:
        return names.index(given)
    if given in (indices := [str(index) for index in range(len(names))]):
        return indices.index(given)
    raise ConfigError(
        f"{manifest.name} has no class {given!r}; it has {_list(names)} "
        f"(indices 0 to {len(names) - 1}).{nearest(given, names)}"
    )


def _values(texts: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            raise ConfigError(f"--set takes NAME=NUMBER, not {text!r}") from None
    return found


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _test_images(published: Published) -> Pixels:
    source = published.data(None)
    # Late: to load a data set takes torch, which takes seconds to import.
    import torch

    from trainer.evaluate import dataset_of

    test = dataset_of(published.manifest, source).test
    shown = test.take(torch.arange(min(SHOWN, len(test)))).images
    return shown.permute(0, 2, 3, 1).numpy()


def _read(file: Path, spec: ImageSpec) -> Pixels:
    """A picture file as the model takes it: uint8 ``(H, W, C)``."""
    try:
        with quiet_pillow(), open_image(file) as picture:
            check_pixels(picture)
            return prepare(picture, spec)
    except Exception as error:  # Pillow's decoders raise nearly anything on broken bytes
        raise DataError(f"{file} cannot be read: {reason(error)}") from error


def _reconstructed(model: ExportedModel, images: Pixels) -> Pixels:
    results = model.results(RECONSTRUCT, range(len(images)), {Role.images: images}, default_noise=RECONSTRUCT)
    return results.arrays[Role.images]


def _in_rows(images: Pixels, columns: int) -> list[Pixels]:
    """Images in rows of ``columns``; white images fill the last row."""
    blank = np.full((-len(images) % columns, *images.shape[1:]), WHITE, np.uint8)
    filled = np.concatenate([images, blank])
    return [filled[start : start + columns] for start in range(0, len(filled), columns)]


def _check_out(out: Path) -> None:
    """Raise RunError if a picture cannot be written there: before anything is computed, not after."""
    Image.init()
    if out.suffix.lower() not in Image.EXTENSION:
        raise RunError(f"cannot write {out}: its name ends in no format of pictures, such as .png")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror}") from error


def _save(image: Pixels, out: Path) -> None:
    try:
        Image.fromarray(image if image.shape[2] > 1 else image[:, :, 0]).save(out)
    except (OSError, ValueError) as error:
        raise RunError(f"cannot write {out}: {error}") from error
