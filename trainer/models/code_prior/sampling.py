"""The graphs that draw codes from a prior, and their inputs for examples and pictures."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from service.contract.manifest import Input, Output, Parameter, Role
from trainer.config.base import HOTTEST
from trainer.models.code_prior.network import CodePrior
from trainer.models.graph import Graph
from trainer.models.onnx_scan import Chain
from trainer.models.samplers.autoregressive import CodeSampler
from trainer.models.samplers.parallel import ParallelSampler

# Beyond it there is a handful of images.
STRONGEST = 10.0
# On MNIST 93 % of the samples are the asked digit without guidance, 99 % with this, and more gains little.
GUIDANCE = 1.5
# As many as MaskGIT takes for a grid of 16x16 (2202.04200, sec. 4.1).
STEPS = 8


def autoregressive(network: CodePrior, temperature: float) -> Graph:
    """``sample/autoregressive``, with the default of its parameter ``temperature``."""
    return _graph(
        network,
        "autoregressive",
        CodeSampler(network),
        "Codes drawn one after the other from the prior; with a mask, only those in it, to go with the "
        "others.",
        _parameters(network, temperature),
    )


def parallel(network: CodePrior, temperature: float) -> Graph:
    """``sample/parallel``, of a prior that has learnt the orders of ``code_prior.orders``."""
    places = math.prod(network.grid)
    steps = Parameter(
        dtype="int64",
        default=min(STEPS, places),
        minimum=1,
        maximum=places,
        description="Steps in which all codes are drawn, few in the first and many in the last: fewer are "
        "faster, more are better.",
    )
    return _graph(
        network,
        "parallel",
        ParallelSampler(network),
        "Codes drawn from the prior in few steps, those of a step at once; with a mask, only those in it, "
        "to go with the others.",
        {"steps": steps, **_parameters(network, temperature)},
    )


def inputs(network: CodePrior, labels: Tensor, masks: Tensor, *, guidance: float) -> dict[str, Tensor]:
    """The inputs of either graph by name, with noise and given codes from a fixed seed.

    ``labels`` are int64 ``(n,)``, ``masks`` bool ``(n, *grid)``. The temperature is 1, ``top_k`` restricts
    nothing, and the steps are the default.
    """
    places, generator = math.prod(network.grid), torch.Generator().manual_seed(0)
    given = {
        "noise": torch.rand(len(labels), places, generator=generator),
        "codes": torch.randint(network.size, masks.shape, generator=generator).int(),
        "mask": masks,
        "steps": torch.tensor(min(STEPS, places)),
        "temperature": torch.tensor(1.0),
        "top_k": torch.tensor(network.size),
    }
    return given | {"label": labels, "guidance": torch.tensor(guidance)} if network.classes else given


def examples(network: CodePrior, count: int, *, guidance: float) -> dict[str, Tensor]:
    """Inputs for images of all classes and none, of which half are to be completed."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(count, *network.grid, generator=generator) < 0.5
    masks[::2] = True
    return inputs(network, torch.arange(count) % (network.classes + 1), masks, guidance=guidance)


def of_graph(graph: Graph, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inputs of a graph, in its order, of ``given`` ones by name."""
    return {item.name: given[item.name] for item in graph.inputs}


def _graph(
    network: CodePrior, name: str, sampler: Chain, description: str, parameters: dict[str, Parameter]
) -> Graph:
    takes = [
        Input(name="noise", role=Role.uniform, shape=(math.prod(network.grid),)),
        Input(name="codes", role=Role.codes),
        Input(name="mask", role=Role.mask),
        *(Input(name=name, role=Role.parameter) for name in parameters if name != "guidance"),
    ]
    if network.classes:
        takes.append(Input(name="label", role=Role.label, default=network.no_label))
        takes.append(Input(name="guidance", role=Role.parameter))
    values = examples(network, 2, guidance=2.0)
    return Graph(
        operation=f"sample/{name}",
        file=f"sample_{name}.onnx",
        module=sampler,
        examples=tuple(values[item.name] for item in takes),
        axes=tuple({} if item.role is Role.parameter else {0: "n"} for item in takes),
        inputs=tuple(takes),
        outputs=(Output(name="drawn", role=Role.codes),),
        description=description,
        parameters=parameters,
    )


def _parameters(network: CodePrior, temperature: float) -> dict[str, Parameter]:
    parameters = {
        "temperature": Parameter(
            dtype="float32",
            default=temperature,
            minimum=0,
            maximum=HOTTEST,
            description="Sharpens the probabilities below 1, flattens them above; 0 takes the likeliest.",
        ),
        "top_k": Parameter(
            dtype="int64",
            default=network.size,
            minimum=1,
            maximum=network.size,
            description="Draw each code only among so many of the likeliest.",
        ),
    }
    if network.classes:
        parameters["guidance"] = Parameter(
            dtype="float32",
            default=GUIDANCE,
            minimum=0,
            maximum=STRONGEST,
            description="Classifier-free guidance: above 1, the images are more clearly of their class "
            "and less varied. Without a label it does nothing.",
        )
    return parameters
