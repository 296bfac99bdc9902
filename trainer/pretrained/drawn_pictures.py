"""Pictures drawn from a seed: colours that flow, shapes with edges, and grain.

An import is compared with torch on them, so that it needs no data. They say nothing of how good a model is.
"""

import numpy as np
import torch
from PIL import Image, ImageDraw

from service.contract.image_preprocessing import pixels
from service.contract.manifest import ImageSpec
from trainer.data.batches import ResidentSplit
from trainer.data.loading import Dataset

NAME = "drawn pictures"
SHAPES = 8
MOST_GRAIN = 24.0


def drawn_pictures(spec: ImageSpec, count: int, seed: int = 0) -> Dataset:
    """A dataset of ``count`` pictures that fit ``spec``, the same for a seed."""
    generators = [np.random.default_rng((seed, number)) for number in range(count)]
    images = np.stack([pixels(_picture(spec, generator)) for generator in generators])
    split = ResidentSplit(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), None)
    return Dataset(NAME, train=split, test=split, spec=spec, label_names=None, pictures=count)


def _picture(spec: ImageSpec, rng: np.random.Generator) -> Image.Image:
    size = (spec.width, spec.height)
    colours = rng.integers(0, 256, (3, 3, 3), dtype=np.uint8)
    picture = Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    for _ in range(SHAPES):
        corners = rng.uniform(-0.1, 1.1, (3, 2)) * size
        fill = tuple(rng.integers(0, 256, 3).tolist())
        if rng.random() < 0.5:
            pen.polygon([tuple(corner) for corner in corners.tolist()], fill=fill)
        else:
            (left, top), (right, bottom) = np.sort(corners[:2], axis=0).tolist()
            pen.ellipse((left, top, right, bottom), fill=fill)
    levels = np.asarray(picture) + rng.normal(0, rng.uniform(0, MOST_GRAIN), (spec.height, spec.width, 1))
    grained = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    return grained.convert("L") if spec.channels == 1 else grained
