"""p(x | z), pixel by pixel: a short stack of masked convolutions that reads the image and a feature map.

Its window is small on purpose: it models what follows from the pixels nearby, and the code holds the rest
(1611.02731, sec. 3.1 and appendix A).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.contract.manifest import Input, Output, Parameter, Role
from trainer.config.base import HOTTEST
from trainer.models.autoregressive.pixel_distributions import PixelDistribution
from trainer.models.base import to_shares
from trainer.models.gaussian.operations import BATCH, UNTILED
from trainer.models.graph import Graph
from trainer.models.layers.masked import MaskedConv
from trainer.models.onnx_scan import Axes, Chain, Loop, NestedChain, Tensors

# Images whose exported draws are compared with torch's.
COMPARED = 16


class PixelStack(nn.Module):
    """Masked 3x3 convolutions, the first strict: the output at a pixel depends on the pixels before it alone.

    A pixel is seen up to ``layers`` rows above and ``layers`` columns to either side. The first convolution's
    output is joined with the feature map; those that follow are residual.
    """

    def __init__(self, channels: int, filters: int, layers: int, outputs: int) -> None:
        super().__init__()
        self.channels, self.filters = channels, filters
        self.first = MaskedConv(channels, filters, strict=True)
        self.further = nn.ModuleList(MaskedConv(filters, filters) for _ in range(layers - 1))
        self.head = nn.Conv2d(filters, outputs, 1)

    def forward(self, pixels: Tensor, features: Tensor) -> Tensor:
        """Pixels ``(B, C, H, W)`` in [0, 1] and features ``(B, F, H, W)`` to ``(B, outputs, H, W)``."""
        x = self.first(pixels * 2 - 1) + features
        for layer in self.further:
            x = x + layer(F.elu(x))
        return self.head(F.elu(x))

    @property
    def layers(self) -> list[MaskedConv]:
        """The convolutions, from the first to the last."""
        return [layer for layer in (self.first, *self.further) if isinstance(layer, MaskedConv)]

    @property
    def widest(self) -> int:
        """The most values that a layer takes in at a pixel."""
        return max(self.channels, self.filters)

    def weights(self) -> Tensors:
        """The weights by the place that is seen, those of all layers in one tensor.

        ``weight_above``, ``(layers, 3 * widest, filters)``; ``weight_left``, ``(layers, widest, filters)``;
        ``bias``, ``(layers, 1, filters)``. A layer that takes in fewer values has zeros.
        """
        weights = [_filled(layer.weight.permute(2, 3, 0, 1), self.widest) for layer in self.layers]
        weight = torch.stack(weights).transpose(3, 4)
        return {
            "weight_above": weight[:, 0].flatten(1, 2),
            "weight_left": weight[:, 1, 0],
            "bias": torch.stack([layer.bias for layer in self.layers])[:, None],
        }


def _filled(x: Tensor, size: int) -> Tensor:
    """With zeros up to ``size`` along the last axis."""
    missing = size - x.shape[-1]
    return F.pad(x, (0, missing)) if missing else x


class _RowLoop(Chain):
    """One row, pixel by pixel: what its pixels see above is computed at once, and then a step is a pixel.

    Inputs, for ``n`` images:

    - ``above``: what each layer took in at the pixels of the row above, ``(W, layers, n, widest)``
    - ``features``: ``(W, n, filters)``
    - ``noise``: ``(W, n, noises)``
    - the rest is fixed: temperature, mean, ``PixelStack.weights`` and the layers' weights of a pixel itself

    The outputs are ``above`` for the next row, and the row's pixels and their means, ``(W, n, C)``.
    """

    def __init__(self, stack: PixelStack, distribution: PixelDistribution) -> None:
        super().__init__()
        self.stack, self.distribution = stack, distribution
        of_batch: Axes = {1: "n"}
        self.axes = dict.fromkeys(("features", "noise", "left", "drawn", "expected"), of_batch)
        of_layers: Axes = {2: "n"}
        self.axes |= dict.fromkeys(("sums", "values"), of_layers)

    def start(self, *inputs: Tensor) -> Loop:
        """The sums of what is above; what is left of the row is zero."""
        above, features, noise, temperature, mean, weight_above, weight_left, bias, *own = inputs
        wide = F.pad(above, (0, 0, 0, 0, 0, 0, 1, 1))
        seen = torch.cat([wide[:-2], wide[1:-1], wide[2:]], dim=3)
        fixed = {"temperature": temperature, "mean": mean, "weight_left": weight_left}
        return Loop(
            carried={"left": torch.zeros_like(above[0])},
            slices={"features": features, "noise": noise, "sums": seen @ weight_above + bias},
            fixed=fixed | {f"weight_own_{index}": weight for index, weight in enumerate(own)},
        )

    def step(self, carried: Tensors, sliced: Tensors, fixed: Tensors) -> tuple[Tensors, Tensors]:
        """Run the stack on one pixel, and draw it."""
        stack = self.stack
        # Of each layer (1, n, filters).
        sums = torch.baddbmm(sliced["sums"], carried["left"], fixed["weight_left"]).split(1)
        x = sums[0] + sliced["features"]
        taken = []
        for index, before in enumerate(sums[1:]):
            now = F.elu(x)
            taken.append(now)
            x = x + before + now @ fixed[f"weight_own_{index}"]
        output = F.linear(F.elu(x)[0], stack.head.weight.flatten(1), stack.head.bias)
        pixel = self.distribution.draw(output, sliced["noise"], fixed["temperature"])
        own = (pixel * 2 - 1).to(x)[None]
        values = torch.cat([_filled(value, stack.widest) for value in (own, *taken)])
        expected = self.distribution.mean(output)
        return {"left": values}, {"values": values, "drawn": pixel, "expected": expected}

    def finish(self, _: Tensors, emitted: Tensors, __: Tensors, /) -> tuple[Tensor, ...]:
        """What the row's pixels gave, one after the other."""
        return emitted["values"], emitted["drawn"], emitted["expected"]


class PixelLoop(NestedChain):
    """Draws an image pixel by pixel, each layer computed at the pixel under way alone.

    Inputs, for ``n`` images:

    - ``codes``: the input of ``decoder``, which maps it to features, float32 ``(n, filters, H, W)``
    - ``noise``: float32 ``(n, H * W, noises)``, uniform in [0, 1)
    - ``temperature``: float32 scalar; 0 is the likeliest pixel each time
    - ``mean``: int64 scalar; 1 gives the mean of each pixel's distribution instead of the pixel drawn

    The output is ``images``, uint8 ``(n, H, W, C)``.
    """

    emits = ("drawn", "expected")

    def __init__(
        self, stack: PixelStack, distribution: PixelDistribution, decoder: nn.Module, size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.stack, self.distribution, self.decoder, self.size = stack, distribution, decoder, size
        self.inner = _RowLoop(stack, distribution)
        of_batch: Axes = {2: "n"}
        self.axes = dict.fromkeys(("above", "features", "noise", "drawn", "expected"), of_batch)

    def start(self, *inputs: Tensor) -> Loop:
        """Decode, and lay out the weights; what is above the image is zero."""
        codes, noise, temperature, mean = inputs
        stack = self.stack
        features = self.decoder(codes).permute(2, 3, 0, 1)
        zeros = torch.zeros(len(stack.layers), 1, stack.widest, device=features.device)
        own = {f"weight_own_{index}": layer.weight_own() for index, layer in enumerate(stack.layers[1:])}
        return Loop(
            carried={"above": features[0, :, None, :, :1] * zeros},
            slices={"features": features, "noise": noise.unflatten(1, self.size).permute(1, 2, 0, 3)},
            fixed={"temperature": temperature, "mean": mean, **stack.weights(), **own},
        )

    def finish(self, _: Tensors, emitted: Tensors, fixed: Tensors, /) -> tuple[Tensor, ...]:
        """The pixels, or their means, as an image."""
        pixels = torch.where(fixed["mean"] == 1, emitted["expected"], emitted["drawn"])
        return ((pixels * 255).round().byte().permute(2, 0, 1, 3),)

    @torch.no_grad()
    def gap(self, inputs: tuple[Tensor, ...], images: Tensor) -> float:
        """How far images, uint8 ``(n, H, W, C)``, are from those that these inputs draw.

        The largest of the distribution's gaps, where each pixel is compared given the pixels before it.
        """
        codes, noise, temperature, _ = inputs
        pixels = to_shares(images.permute(0, 3, 1, 2))
        output = self.stack(pixels, self.decoder(codes)).permute(0, 2, 3, 1).flatten(1, 2)
        return float(self.distribution.gap(output, noise, temperature, images.flatten(1, 2) / 255).max())

    def noise_input(self) -> Input:
        """The noise of ``decode``.

        Without a seed the pixels are drawn with one default noise: the likeliest pixels would miss thin
        strokes, for the first pixel of a stroke is never likely.
        """
        shape = (math.prod(self.size), self.distribution.noises)
        return Input(name="noise", role=Role.uniform, shape=shape, default_seed=0)


def decoding(loop: PixelLoop, dim: int) -> Graph:
    """``decode``, from codes of ``dim`` dimensions."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(COMPARED, dim, generator=generator)
    noise = torch.rand(COMPARED, math.prod(loop.size), loop.distribution.noises, generator=generator)
    return Graph(
        operation="decode",
        file="decoder.onnx",
        module=loop,
        examples=(codes, noise, torch.tensor(1.0), torch.tensor(0)),
        axes=(BATCH, BATCH, {}, {}),
        inputs=(
            Input(name="codes", role=Role.codes),
            loop.noise_input(),
            Input(name="temperature", role=Role.parameter),
            Input(name="mean", role=Role.parameter),
        ),
        outputs=(Output(name="images", role=Role.images),),
        description="An image of a code, drawn pixel by pixel: always the same one, or with a seed another.",
        untiled=UNTILED,
        parameters={
            "temperature": Parameter(
                dtype="float32",
                default=1,
                minimum=0,
                maximum=HOTTEST,
                description="Of the pixels' draws: 0 takes the likeliest each time.",
            ),
            "mean": Parameter(
                dtype="int64",
                default=int(loop.distribution.shows_mean),
                minimum=0,
                maximum=1,
                description="1: answer for each pixel the mean of what it is drawn from; 0: the pixel drawn.",
            ),
        },
    )
