"""Images to train on, from wherever they are.

    dataset = load("mnist", limit=1000)
    print(dataset.summary())
    with Batches(dataset.train, batch_size=128, seed=0, device="cuda") as batches:
        for batch in batches.epoch(0):
            batch.images, batch.labels

A source (``idx``, ``folder``, ``vision``, ``hub``) gives pictures one by one; ``sizing`` settles what they
are made into, ``decoding`` makes it, and ``splits`` or ``streaming`` give the result, from memory or not.
"""

from trainer.data.batches import Batches
from trainer.data.dataset import Dataset
from trainer.data.loading import load
from trainer.data.sizing import ImageOptions
from trainer.data.sources.pictures import Skipped
from trainer.data.splits import Batch, ResidentSplit, Split
from trainer.data.streaming import StreamedSplit

__all__ = [
    "Batch",
    "Batches",
    "Dataset",
    "ImageOptions",
    "ResidentSplit",
    "Skipped",
    "Split",
    "StreamedSplit",
    "load",
]
