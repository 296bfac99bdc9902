"""What is sent: bodies in files, the model they are for, and the codes that ONNX Runtime itself gives."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.benchmarks.lookup import PLAIN, plain_encoder
from tests.benchmarks.serving.work import JSON, NPY, PNG, Codes, Encoder, Pixels, as_npy
from trainer.config import resolve
from trainer.data.loading import load
from trainer.data.sizing import ImageOptions
from trainer.export.exporter import export
from trainer.export.onnx_export import write_graphs
from trainer.models.base import build
from trainer.models.vqvae import VQVAE

# Many pictures, so that nobody could answer from memory; and few enough for the processor's cache.
PICTURES = 64
BATCH = 64
# More would only wait: a batch of large pictures takes both cores most of a second.
BATCH_CONNECTIONS = 4
CHECKED = 8
SMALL, LARGE = 28, 128


@dataclass(frozen=True)
class Workload:
    """Requests of one kind.

    - ``model``: the exported folder that they are for
    - ``bodies``: files, each a PNG or, if ``images`` is more than one, an npy
    - ``size``: height and width of the images
    - ``expected``: the codes of the first bodies
    - ``at_once``: images that a server may put together
    - ``plain``: the encoder as PyTorch exports it by itself, for the peers; without one they have ours
    """

    name: str
    model: Path
    bodies: tuple[Path, ...]
    images: int
    size: tuple[int, int]
    expected: tuple[Codes, ...]
    at_once: int
    plain: Path | None = None

    @property
    def graph(self) -> Path:
        """The encoder's graph."""
        return self.model / "encoder.onnx"

    @property
    def media(self) -> str:
        """The content type of the bodies."""
        return PNG if self.images == 1 else NPY

    @property
    def accept(self) -> str:
        """The content type of the answers."""
        return JSON if self.images == 1 else NPY

    def connections(self, wanted: Sequence[int]) -> list[int]:
        """The numbers of connections that make sense for it, of those that are wanted."""
        return sorted({count if self.images == 1 else min(count, BATCH_CONNECTIONS) for count in wanted})


def names(side: int) -> tuple[str, str]:
    """Of the requests with images of this height and width: single pictures, and batches."""
    return f"{side}x{side} PNG", f"{BATCH} of {side}x{side} as npy"


NAMES = (*names(SMALL), *names(LARGE))


def workloads(wanted: Sequence[str], mnist: Path, scratch: Path) -> list[Workload]:
    """Those of ``NAMES``: for the MNIST model in ``mnist``, and for a large one made in ``scratch``."""
    made: list[Workload] = []
    # ONNX Runtime alone is fastest with batches of about 16 digits, and with large pictures one by one.
    if set(wanted) & set(names(SMALL)):
        digits = load("mnist").test.take(torch.arange(PICTURES)).images.permute(0, 2, 3, 1).numpy()
        made += [_pictures(digits, mnist, scratch, at_once=16), _arrays(digits, mnist, scratch)]
    if set(wanted) & set(names(LARGE)):
        colours = np.stack([_picture(seed) for seed in range(PICTURES)])
        large, plain = _untrained(colours, scratch)
        both = _pictures(colours, large, scratch, at_once=2), _arrays(colours, large, scratch)
        made += [replace(each, plain=plain) for each in both]
    return [workload for workload in made if workload.name in wanted]


def _pictures(images: Pixels, model: Path, scratch: Path, at_once: int) -> Workload:
    height, width = images.shape[1:3]
    bodies = []
    for number, image in enumerate(images):
        bodies.append(scratch / f"{height}-{number}.png")
        _pillow(image).save(bodies[-1])
    encoder = Encoder(model / "encoder.onnx")
    expected = tuple(encoder(image[None]) for image in images[:CHECKED])
    return Workload(names(height)[0], model, tuple(bodies), 1, (height, width), expected, at_once)


def _arrays(images: Pixels, model: Path, scratch: Path) -> Workload:
    height, width = images.shape[1:3]
    batch = images[:BATCH]
    body = scratch / f"{height}.npy"
    body.write_bytes(as_npy(batch))
    expected = (Encoder(model / "encoder.onnx")(batch),)
    return Workload(names(height)[1], model, (body,), BATCH, (height, width), expected, BATCH)


def _picture(seed: int) -> Pixels:
    """Soft patches of colour with a little grain: about as hard on a PNG decoder as a drawing is."""
    random = np.random.default_rng(seed)
    patches = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    soft = np.asarray(patches.resize((LARGE, LARGE), Image.Resampling.BICUBIC), dtype=np.int16)
    grain = random.integers(-2, 3, soft.shape, dtype=np.int16)
    return np.clip(soft + grain, 0, 255).astype(np.uint8)


def _pillow(image: Pixels) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _untrained(pictures: Pixels, scratch: Path) -> tuple[Path, Path]:
    """A model of the preset for 128x128 in colour, exported before its first step, and its plain encoder."""
    folder = scratch / "pictures"
    folder.mkdir()
    for number, picture in enumerate(pictures):
        _pillow(picture).save(folder / f"{number}.png")
    flags = {"data": str(folder), "name": "untrained", "export_to": scratch, "kmeans_start": False}
    config = resolve("vqvae", preset="vqvae-naruto", flags=flags)
    dataset = load(config.data, ImageOptions(size=config.image_size, background=config.background))
    torch.manual_seed(config.seed)
    model = build(config, dataset.spec, 0.1)
    assert isinstance(model, VQVAE)
    (scratch / "plain").mkdir()
    write_graphs([plain_encoder(model)], scratch / "plain", model.codebook())
    return export(model, None, config, dataset).folder, scratch / "plain" / PLAIN
