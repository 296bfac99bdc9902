"""The prior over codes: an autoregressive flow, conditioned on the class (1611.02731, sec. 3.2).

A code z becomes u by steps u = z - m(z), in which m of a dimension depends on those before it alone; from
step to step the order is reversed. Each step keeps volumes (mean-only, which the paper found stable), so
log p(z) is that of u under the base: a normal distribution with a mean and a variance of each dimension.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.contract.manifest import Input, Output, Parameter, Role
from trainer.config.base import HOTTEST
from trainer.models.gaussian.operations import BATCH
from trainer.models.graph import Graph
from trainer.models.layers.masked import MaskedMLP
from trainer.models.onnx_scan import Axes, Chain, Loop, Tensors


class FlowPrior(nn.Module):
    """p(z | y); with the class ``no_label`` it is p(z).

    Args:
        dim: dimensions of a code, d.
        classes: number of classes, 0 for none.
        steps: of the flow; with 0 of them, the prior is the base.
        width: of a step's hidden layers.
        layers: hidden layers of a step.

    """

    def __init__(self, dim: int, classes: int, *, steps: int, width: int, layers: int) -> None:
        super().__init__()
        self.dim, self.classes, self.layers = dim, classes, layers
        self.mean = nn.Embedding(classes + 1, dim)
        self.log_scale = nn.Embedding(classes + 1, dim)
        self.steps = nn.ModuleList(
            MaskedMLP(dim, width, layers, backwards=step % 2 == 1) for step in range(steps)
        )
        self.contexts = nn.ModuleList(nn.Embedding(classes + 1, layers * width) for _ in range(steps))
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.zeros_(module.weight)

    @property
    def no_label(self) -> int:
        """The label of an unconditional density."""
        return self.classes

    def log_probs(self, codes: Tensor, labels: Tensor) -> Tensor:
        """Log p(z | y) by the base's dimensions: codes, float32 ``(B, d)``, classes ``(B,)`` to ``(B, d)``.

        Their sum is the density's logarithm.
        """
        for step, context in zip(self.steps, self.contexts, strict=True):
            codes = codes - step(codes, context(labels))
        log_scale = self.log_scale(labels)
        standard = (codes - self.mean(labels)) * (-log_scale).exp()
        return -(standard.square() + math.log(2 * math.pi)) / 2 - log_scale

    def labels(self, noise: Tensor, label: Tensor | None) -> Tensor:
        """The classes of draws, as many as there is noise: those given, or all the same."""
        return torch.zeros_like(noise[:, 0]).long() if label is None else label

    def base(self, noise: Tensor, temperature: Tensor, labels: Tensor) -> Tensor:
        """Draws from the base: standard normal noise ``(B, d)``, a scalar, and classes to ``(B, d)``."""
        return self.mean(labels) + self.log_scale(labels).exp() * noise * temperature


class BaseSampler(nn.Module):
    """Codes from a ``FlowPrior`` without steps; inputs and output as those of ``FlowSampler``."""

    def __init__(self, prior: FlowPrior) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, noise: Tensor, code_temperature: Tensor, label: Tensor | None = None) -> tuple[Tensor]:
        return (self.prior.base(noise, code_temperature, self.prior.labels(noise, label)),)


class FlowSampler(Chain):
    """Codes from a ``FlowPrior``: its steps undone from the last to the first, one dimension after the other.

    Inputs, for ``n`` codes:

    - ``noise``: float32 ``(n, d)``, standard normal
    - ``code_temperature``: float32 scalar, what the base's standard deviations are multiplied by
    - if the prior has classes, ``label``: int64 ``(n,)``, ``no_label`` for none

    The output is ``codes``, float32 ``(n, d)``.
    """

    def __init__(self, prior: FlowPrior) -> None:
        super().__init__()
        self.prior = prior
        self.axes: dict[str, Axes] = {"codes": {0: "n"}, "contexts": {1: "n"}}

    def start(self, *inputs: Tensor) -> Loop:
        """Draw from the base, and lay out the steps' weights."""
        prior, (noise, temperature, *label) = self.prior, inputs
        labels = prior.labels(noise, label[0] if label else None)
        device = noise.device
        codes = prior.base(noise, temperature, labels)
        dims = torch.arange(prior.dim, device=device)
        count = len(prior.steps)
        # A step of the loop is one dimension of one step of the flow.
        order = torch.cat([dims.flip(0) if step % 2 else dims for step in reversed(range(count))])
        which = torch.arange(count, device=device).flip(0).repeat_interleave(prior.dim)
        networks = [step for step in prior.steps if isinstance(step, MaskedMLP)]
        weights = [network.masked_weights() for network in networks]
        fixed = {"contexts": torch.stack([context(labels) for context in prior.contexts])}
        for layer in range(prior.layers + 1):
            fixed[f"weight_{layer}"] = torch.stack([each[layer].T for each in weights])
            fixed[f"bias_{layer}"] = torch.stack([network.biases[layer] for network in networks])
        place = F.one_hot(order, prior.dim).float()
        return Loop({"codes": codes}, {"place": place, "which": which}, fixed)

    def step(self, carried: Tensors, sliced: Tensors, fixed: Tensors) -> tuple[Tensors, Tensors]:
        """Undo a step of the flow in one dimension; the dimensions after it in its order do not matter."""
        codes, which = carried["codes"], sliced["which"]
        x, layers = codes, self.prior.layers
        contexts = fixed["contexts"][which].chunk(layers, dim=1)
        for layer in range(layers):
            x = x @ fixed[f"weight_{layer}"][which] + (fixed[f"bias_{layer}"][which] + contexts[layer])
            x = F.elu(x)
        shift = x @ fixed[f"weight_{layers}"][which] + fixed[f"bias_{layers}"][which]
        codes = codes + shift * sliced["place"]
        return {"codes": codes}, {}

    def finish(self, carried: Tensors, _emitted: Tensors, _fixed: Tensors, /) -> tuple[Tensor, ...]:
        """The codes."""
        return (carried["codes"],)


def sampler(prior: FlowPrior) -> nn.Module:
    """The module that samples codes from a prior."""
    return FlowSampler(prior) if len(prior.steps) else BaseSampler(prior)


def drawn_codes(prior: FlowPrior, noise: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Codes of noise, float32 ``(B, d)``, and classes ``(B,)``, drawn as ``FlowSampler`` draws them."""
    given = (noise, torch.tensor(temperature, device=noise.device), *([labels] if prior.classes else []))
    (codes,) = sampler(prior)(*given)
    return codes


def sampling(prior: FlowPrior, temperature: float) -> Graph:
    """``sample/prior``; ``temperature`` is the default of its parameter ``code_temperature``."""
    inputs = [
        Input(name="noise", role=Role.normal, shape=(prior.dim,)),
        Input(name="code_temperature", role=Role.parameter),
    ]
    examples = [torch.randn(2, prior.dim, generator=torch.Generator().manual_seed(0)), torch.tensor(1.0)]
    axes: list[dict[int, str]] = [BATCH, {}]
    if prior.classes:
        inputs.append(Input(name="label", role=Role.label, default=prior.no_label))
        examples.append(torch.tensor([0, prior.no_label]))
        axes.append(BATCH)
    return Graph(
        operation="sample/prior",
        file="sample_prior.onnx",
        module=sampler(prior),
        examples=tuple(examples),
        axes=tuple(axes),
        inputs=tuple(inputs),
        outputs=(Output(name="codes", role=Role.codes),),
        description="Codes from the prior, an autoregressive flow; with a label, of that class.",
        parameters={
            "code_temperature": Parameter(
                dtype="float32",
                default=temperature,
                minimum=0,
                maximum=HOTTEST,
                description="Of the codes: what the base's standard deviations are multiplied by.",
            )
        },
    )
