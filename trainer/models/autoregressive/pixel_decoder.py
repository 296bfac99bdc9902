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
from trainer.models.base import Graph, to_shares
from trainer.models.gaussian.operations import BATCH, UNTILED
from trainer.models.layers.masked import MaskedConv
from trainer.models.onnx_scan import Axes, Chain, Loop, Tensors

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
    def slots(self) -> int:
        """The most values that a layer takes in at a pixel."""
        return max(self.channels, self.filters)

    def weight_above(self) -> Tensor:
        """Weights of the row above, a layer a group of one convolution: ``(layers * filters, slots, 3)``."""
        return torch.cat([_filled(layer.weight[:, :, 0], 1, self.slots) for layer in self.layers])

    def weight_here(self, index: int) -> Tensor:
        """Weights of a pixel and of the one to its left, of a further layer: ``(2 * filters, filters)``."""
        layer = self.layers[index]
        return torch.cat([layer.weight_own(), layer.weight[:, :, 1, 0].T])


def _filled(x: Tensor, axis: int, size: int) -> Tensor:
    """With zeros up to a size along an axis."""
    missing = size - x.shape[axis]
    return F.pad(x, (0, 0) * (x.dim() - 1 - axis) + (0, missing)) if missing else x


class PixelLoop(Chain):
    """Draws an image pixel by pixel, each layer computed at the pixel under way alone.

    Inputs, for ``n`` images:

    - ``codes``: the input of ``decoder``, which maps it to features, float32 ``(n, filters, H, W)``
    - ``noise``: float32 ``(n, H * W, noises)``, uniform in [0, 1)
    - ``temperature``: float32 scalar; 0 is the likeliest pixel each time
    - ``mean``: int64 scalar; 1 gives the mean of each pixel's distribution instead of the pixel drawn

    The output is ``images``, uint8 ``(n, H, W, C)``.
    """

    axes: dict[str, Axes]

    def __init__(
        self, stack: PixelStack, distribution: PixelDistribution, decoder: nn.Module, size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.stack, self.distribution, self.decoder, self.size = stack, distribution, decoder, size
        of_batch: Axes = {1: "n"}
        self.axes = dict.fromkeys(("features", "noise", "drawn", "expected"), of_batch)
        self.axes["above"] = {0: "n"}

    def start(self, *inputs: Tensor) -> Loop:
        """Decode, and lay out the weights; what is above the image is zero."""
        codes, noise, temperature, mean = inputs
        stack, (height, width) = self.stack, self.size
        features = self.decoder(codes)
        device = features.device
        above = features[:, :1, 0, :1] * torch.zeros(1, len(stack.layers) * stack.slots, width, device=device)
        fixed = {
            "temperature": temperature,
            "mean": mean,
            "weight_above": stack.weight_above(),
            "bias": torch.cat([layer.bias for layer in stack.layers]),
            "weight_left": stack.layers[0].weight[:, :, 1, 0].T,
        }
        for index in range(1, len(stack.layers)):
            fixed[f"weight_here_{index}"] = stack.weight_here(index)
        return Loop(
            carried={"above": above},
            slices={
                "features": features.permute(2, 0, 3, 1),
                "noise": noise.unflatten(1, (height, width)).transpose(0, 1),
            },
            fixed=fixed,
        )

    def step(self, carried: Tensors, sliced: Tensors, fixed: Tensors) -> tuple[Tensors, Tensors]:
        """Run the stack on one row, pixel by pixel, and draw it."""
        stack = self.stack
        count = len(stack.layers)
        sums = F.conv1d(carried["above"], fixed["weight_above"], fixed["bias"], padding=1, groups=count)
        columns = sums.permute(2, 1, 0).unflatten(1, (count, stack.filters)).transpose(2, 3)
        features, noise = sliced["features"].unbind(1), sliced["noise"].unbind(1)
        left: list[Tensor] = []
        rows, drawn, expected = [], [], []
        for column, before in enumerate(columns.unbind()):
            above = before.unbind()
            x = above[0] + features[column]
            if left:
                x = torch.addmm(x, left[0], fixed["weight_left"])
            taken = []
            for index in range(1, count):
                now = F.elu(x)
                taken.append(now)
                weight = fixed[f"weight_here_{index}"]
                seen = torch.cat([now, left[index]], dim=1) if left else now
                x = x + torch.addmm(above[index], seen, weight if left else weight[: stack.filters])
            output = F.linear(F.elu(x), stack.head.weight.flatten(1), stack.head.bias)
            pixel = self.distribution.draw(output, noise[column], fixed["temperature"])
            left = [(pixel * 2 - 1).to(x), *taken]
            rows.append(torch.cat([_filled(values, 1, stack.slots) for values in left], dim=1))
            drawn.append(pixel)
            expected.append(self.distribution.mean(output))
        return {"above": torch.stack(rows, dim=2)}, {
            "drawn": torch.stack(drawn, dim=1),
            "expected": torch.stack(expected, dim=1),
        }

    def finish(self, _: Tensors, emitted: Tensors, fixed: Tensors, /) -> tuple[Tensor, ...]:
        """The pixels, or their means, as an image."""
        pixels = torch.where(fixed["mean"] == 1, emitted["expected"], emitted["drawn"])
        return ((pixels * 255).round().byte().transpose(0, 1),)

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
