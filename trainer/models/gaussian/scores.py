"""The score of images: the ELBO and its parts, and -log p(x) by importance sampling (1509.00519)."""

import torch
from torch import Tensor, nn

from service.contract.manifest import ImageSpec, Input, Output, Parameter, Role
from trainer.models.gaussian.operations import BATCH, UNTILED, example_images
from trainer.models.graph import Graph

FIGURES = ("elbo", "reconstruction", "kl", "nll")
MOST_SAMPLES = 256
MEANING = (
    "How likely an image is, in nats: the ELBO, its parts log p(x|z) and KL, and -log p(x) by importance "
    "sampling (1509.00519)"
)


def scoring(module: nn.Module, image: ImageSpec, dim: int, no_label: int | None = None) -> Graph:
    """``score``, by a module of images, uint8 ``(N, H, W, C)``, and noise, float32 ``(N, S, d)``.

    If there is a ``no_label``, it takes classes too, int64 ``(N,)``. It gives ``FIGURES``, float32 ``(N,)``
    each, in nats.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = [
        Input(name="images", role=Role.images),
        Input(name="noise", role=Role.normal, shape=("samples", dim)),
    ]
    examples = [example_images(image, generator), torch.randn(2, 3, dim, generator=generator)]
    axes = [BATCH, {0: "n", 1: "samples"}]
    if no_label is not None:
        inputs.append(Input(name="label", role=Role.label, default=no_label))
        examples.append(torch.tensor([0, no_label]))
        axes.append(BATCH)
    return Graph(
        operation="score",
        file="score.onnx",
        module=module,
        examples=tuple(examples),
        axes=tuple(axes),
        inputs=tuple(inputs),
        outputs=tuple(Output(name=name, role=Role.figure) for name in FIGURES),
        description=f"{MEANING}{'' if no_label is None else '; with a label, given the class'}.",
        untiled=UNTILED,
        parameters={
            "samples": Parameter(
                dtype="int64",
                default=1,
                minimum=1,
                maximum=MOST_SAMPLES,
                description="Draws from the posterior for each image; with more, nll comes closer to "
                "-log p(x).",
            )
        },
    )


def for_every_draw(rows: Tensor, noise: Tensor) -> Tensor:
    """Rows ``(N, ...)`` for noise ``(N, S, d)``: each as often as it has draws, ``(N * S, ...)``.

    By broadcasting: the exporter would keep the example's number of draws in an expansion.
    """
    nothing = torch.zeros_like(noise[:, :, 0], dtype=rows.dtype)
    return (rows[:, None] + nothing.view(*nothing.shape, *(1 for _ in rows.shape[1:]))).flatten(0, 1)


def negative_log_mean(log_weights: Tensor) -> Tensor:
    """-log of the mean of exp, by rows: float64 ``(N, S)`` to ``(N,)``."""
    most = log_weights.amax(dim=1, keepdim=True)
    return -(most[:, 0] + (log_weights - most).exp().mean(dim=1).log())
