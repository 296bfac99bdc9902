"""Classifier-free guidance (2207.12598) in a sampler: the rows that a prior runs, and their logits joined."""

from typing import NamedTuple, cast

import torch
from torch import Tensor

from trainer.models.code_prior.network import CodePrior


class GuidedRows(NamedTuple):
    """The ``m`` rows that a prior runs for ``n`` images: these, and under guidance each again without class.

    - ``rows``: int64 ``(m,)``, from 0
    - ``image``: int64 ``(m,)``, the image of each
    - ``labels``: int64 ``(m,)``
    - ``with_class``, ``without_class``: int64 ``(n,)``, the two rows of each image; without guidance they are
      the same
    """

    rows: Tensor
    image: Tensor
    labels: Tensor
    with_class: Tensor
    without_class: Tensor

    @classmethod
    def of(cls, prior: CodePrior, label: Tensor, guidance: Tensor) -> "GuidedRows":
        """For the classes of images, int64 ``(n,)``, and the weight of guidance, a float32 scalar."""
        images = torch.arange(label.shape[0], device=label.device)
        copies = 1
        if prior.classes:
            # Without a class or guidance, the second rows would change nothing and are not computed.
            further = cast("int", ((label != prior.no_label).any() & (guidance != 1)).long().item())
            torch._check(further >= 0)
            torch._check(further <= 1)
            copies = 1 + further
        rows = torch.arange(label.shape[0] * copies, device=label.device)
        # As a tensor: the exporter takes no size of an axis as an operand.
        first = rows < torch.ones_like(images).sum()
        image = torch.where(first, rows, rows - torch.ones_like(images).sum())
        labels = torch.where(first, label[image], prior.no_label)
        return cls(rows, image, labels, images, images + (rows[-1:] - images[-1:]))


def guided(logits: Tensor, fixed: dict[str, Tensor]) -> Tensor:
    """Logits of rows, float32 ``(m, ...)``, to those of images ``(n, ...)``.

    ``fixed`` has ``with_class`` and ``without_class`` as ``GuidedRows`` has them, and ``guidance``.
    """
    plain = logits[fixed["without_class"]]
    return plain + fixed["guidance"] * (logits[fixed["with_class"]] - plain)
