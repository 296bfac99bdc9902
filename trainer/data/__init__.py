"""Images to train on, from wherever they are.

    dataset = load("mnist", limit=1000)
    print(dataset.summary())
    with Batches(dataset.train, batch_size=128, seed=0, device="cuda") as batches:
        for batch in batches.epoch(0):
            batch.images, batch.labels

A source in ``sources/`` (``idx``, ``folder``, ``vision``, ``hub``) gives pictures one by one. ``sizing``
chooses the size and the channels of the images, ``loading`` decodes them, ``batches`` reads them from memory
and ``streaming`` from the source, with worker processes.
"""

from trainer.data.batches import Batch, Batches, ResidentSplit, Split
from trainer.data.loading import Dataset, load
from trainer.data.sizing import ImageOptions
from trainer.data.sources.pictures import Skipped
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
