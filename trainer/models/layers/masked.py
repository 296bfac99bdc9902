"""Layers that see only what came before: masked convolutions over pixels, masked linear layers over codes."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MaskedConv(nn.Module):
    """A 3x3 convolution that sees the pixels before its own in raster order, and its own if not ``strict``.

    ``(B, C, H, W)`` to ``(B, C', H, W)`` (1601.06759, sec. 3.4: masks A and B). The row below is masked as a
    whole, so the kernel has two rows: the weight is ``(C', C, 2, 3)``.
    """

    mask: Tensor

    def __init__(self, channels: int, outputs: int, *, strict: bool = False) -> None:
        super().__init__()
        mask = torch.ones(2, 3, dtype=torch.bool)
        mask[1, 2:] = False
        mask[1, 1] = not strict
        self.register_buffer("mask", mask, persistent=False)
        bound = 1 / math.sqrt(channels * int(mask.sum()))
        self.weight = nn.Parameter(torch.empty(outputs, channels, 2, 3).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        # With the row too many that a padding below gives: padding above alone copies the images first.
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=1)[:, :, :-1]

    def weight_own(self) -> Tensor:
        """Weights of a pixel itself: ``(C, C')``."""
        return (self.weight * self.mask)[:, :, 1, 1].T


class MaskedMLP(nn.Module):
    """Of ``(B, d)`` the same, each output a function of the inputs before it alone (MADE, 1502.03509).

    ``context``, ``(B, layers * width)``, is added in the hidden layers. With ``backwards``, the order of
    inputs is from the last to the first.
    """

    def __init__(self, dim: int, width: int, layers: int, *, backwards: bool) -> None:
        super().__init__()
        places = torch.arange(dim).flip(0) if backwards else torch.arange(dim)
        # A hidden unit of degree m sees the places up to m; the last place is seen by none. The degrees count
        # down, so that with few units the highest are there, which see all.
        hidden = (dim - 2 - torch.arange(width)) % max(dim - 1, 1)
        degrees = [places, *[hidden] * layers]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for index, (before, after) in enumerate(zip(degrees, [*degrees[1:], places], strict=True)):
            last = index == layers
            seen = before[None] < after[:, None] if last else before[None] <= after[:, None]
            self.register_buffer(f"mask_{index}", seen, persistent=False)
            fan_in = seen.sum(dim=1, keepdim=True).clamp(min=1)
            # Starting as the identity: the flow's first distribution is its base.
            scale = 0.0 if last else 1.0
            self.weights.append(nn.Parameter(scale * torch.randn(len(after), len(before)) / fan_in.sqrt()))
            self.biases.append(nn.Parameter(torch.zeros(len(after))))

    def masked_weights(self) -> list[Tensor]:
        """The weights as they are used, from the first layer to the last."""
        return [weight * self.get_buffer(f"mask_{index}") for index, weight in enumerate(self.weights)]

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        weights = self.masked_weights()
        contexts = context.chunk(len(weights) - 1, dim=1)
        for weight, bias, more in zip(weights[:-1], self.biases, contexts, strict=False):
            x = F.elu(F.linear(x, weight, bias) + more)
        return F.linear(x, weights[-1], self.biases[-1])
