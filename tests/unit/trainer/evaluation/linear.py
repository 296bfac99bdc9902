"""A linear Gaussian model by hand, exported: its likelihood is known in closed form.

An image has one pixel x in [0, 1], a code one dimension: p(z) = N(0, 1), p(x|z) = N(SLOPE z, VARIANCE), so
p(x) = N(0, SLOPE^2 + VARIANCE) and the posterior is N(GAIN x, SPREAD^2).
q(z|x) = N(GAIN x, (SPREAD * loose)^2).
"""

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from service.contract.manifest import CodesSpec, Input, Operation, Output, Parameter, Role
from trainer.evaluation.exported_model import ExportedGraphs, ExportedModel
from trainer.export.onnx_export import write_graphs
from trainer.models.graph import Graph

SLOPE, VARIANCE = 0.8, 0.3
TOTAL = SLOPE**2 + VARIANCE
GAIN, SPREAD = SLOPE / TOTAL, math.sqrt(VARIANCE / TOTAL)
MOST_SAMPLES = 50
LOG_2_PI = math.log(2 * math.pi)


def log_likelihood(pixels: Tensor) -> Tensor:
    """log p(x), float64, of pixels in [0, 1]."""
    return -(pixels.double() ** 2 / TOTAL + math.log(TOTAL) + LOG_2_PI) / 2


class Score(nn.Module):
    def __init__(self, loose: float) -> None:
        super().__init__()
        self.spread = SPREAD * loose

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x = images[:, 0, 0, 0].float()[:, None] / 255
        eps = noise[:, :, 0]
        z = GAIN * x + self.spread * eps
        fit = -((x - SLOPE * z) ** 2 / VARIANCE + math.log(VARIANCE) + LOG_2_PI) / 2
        weight = (fit + (eps**2 - z**2) / 2 + math.log(self.spread)).double()
        kl = ((GAIN * x[:, 0]) ** 2 + self.spread**2 - 1) / 2 - math.log(self.spread)
        most = weight.amax(dim=1, keepdim=True)
        nll = -(most[:, 0] + (weight - most).exp().mean(dim=1).log())
        reconstruction = fit.mean(dim=1)
        return reconstruction - kl, reconstruction, kl, nll.float()


def exported(folder: Path, *, loose: float) -> ExportedModel:
    """The model, whose q is the exact posterior if ``loose`` is 1."""
    folder.mkdir()
    inputs = (
        Input(name="images", role=Role.images),
        Input(name="noise", role=Role.normal, shape=("samples", 1)),
    )
    outputs = tuple(Output(name=name, role=Role.figure) for name in ("elbo", "reconstruction", "kl", "nll"))
    parameters = {"samples": Parameter(dtype="int64", default=1, minimum=1, maximum=MOST_SAMPLES)}
    graph = Graph(
        operation="score",
        file="score.onnx",
        module=Score(loose),
        examples=(torch.zeros(2, 1, 1, 1, dtype=torch.uint8), torch.randn(2, 3, 1)),
        axes=({0: "n"}, {0: "n", 1: "samples"}),
        inputs=inputs,
        outputs=outputs,
        description="",
        parameters=parameters,
    )
    write_graphs([graph], folder)
    operation = Operation(graph="score.onnx", inputs=inputs, outputs=outputs, parameters=parameters)
    return ExportedModel(ExportedGraphs(folder), {"score": operation}, CodesSpec(dtype="float32", shape=(1,)))
