"""How likely a model finds images: the ELBO and its parts, and -log p(x) by importance sampling."""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from service.contract.manifest import Role
from trainer.data.batches import Batch
from trainer.data.binarisation import Binarise
from trainer.data.sources.pictures import OnProgress
from trainer.evaluation.exported_model import ExportedModel, unreported

SCORE = "score"
# Draws of a call of the graph, of all its images together: what a decoder of small images does in a second.
DRAWS_AT_ONCE = 2048
PIXELS_AT_ONCE = 2**21


def likelihood(
    model: ExportedModel,
    batches: Iterable[Batch],
    *,
    samples: int,
    binarise: Binarise | None = None,
    seed: int = 0,
    report: OnProgress = unreported,
    count: int = 0,
) -> dict[str, float]:
    """Means over the images, in nats: ``elbo``, ``reconstruction``, ``kl``; with several samples ``nll``.

    ``nll`` is -log of the mean of ``samples`` importance weights, which bounds -log p(x) from above and falls
    towards it with more of them (1509.00519, eq. 8); they are joined by log-sum-exp in float64. ``binarise``
    makes the images black and white, ``seed`` is for the samples. ``report`` is called with how many of the
    ``count`` images are done.
    """
    sums: dict[str, float] = {}
    seen = 0
    for batch in batches:
        images = batch.images if binarise is None else (binarise(batch.images) * 255).byte()
        images = images.permute(0, 2, 3, 1).contiguous()
        for some, found in _scores(model, images, range(seen, seen + len(images)), samples, seed):
            for name, figures in found.items():
                sums[name] = sums.get(name, 0.0) + float(figures.sum())
            seen += some
            report(seen, count)
    if samples == 1:
        sums.pop("nll")
    return {name: total / seen for name, total in sums.items()}


def _scores(
    model: ExportedModel, images: Tensor, numbers: range, samples: int, seed: int
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """The figures over all samples, some images at a time: how many images, and float64 ``(n,)`` by name.

    Each call of the graph has equally many samples. ``numbers`` are those of the images.
    """
    draws = min(DRAWS_AT_ONCE, max(1, PIXELS_AT_ONCE // math.prod(images.shape[1:])))
    allowed = min(samples, draws, int(model.operations[SCORE].parameters["samples"].maximum))
    a_call = next(size for size in range(allowed, 0, -1) if samples % size == 0)
    count, at_once = samples // a_call, max(1, draws // a_call)
    for start in range(0, len(images), at_once):
        rows, own = images[start : start + at_once], numbers[start : start + at_once]
        calls = [
            # Each call of an image has a number of its own, and so draws of its own.
            model.run(
                (SCORE,),
                range(own.start * count + call, own.stop * count + call, count),
                {Role.images: rows},
                seed,
                {"samples": a_call},
            ).figures
            for call in range(count)
        ]
        figures = {name: torch.stack([call[name] for call in calls]).double() for name in calls[0]}
        nll = math.log(len(calls)) - (-figures.pop("nll")).logsumexp(dim=0)
        yield len(rows), {name: values.mean(dim=0) for name, values in figures.items()} | {"nll": nll}
