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

# The pixels before its own that a masked 3x3 convolution sees.
TAPS = 4
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

    def weight_before(self) -> Tensor:
        """Weights of the pixels before a pixel, all layers in one matrix: ``(4 * S, layers * filters)``.

        ``S = C + (layers - 1) * filters`` are the values that the layers take in, one after the other.
        """
        sizes = [self.channels, *[self.filters] * len(self.further)]
        rows = []
        for index, (layer, size) in enumerate(zip(self.layers, sizes, strict=True)):
            before, after = index * self.filters, (len(sizes) - 1 - index) * self.filters
            rows.append(F.pad(layer.weight_before(), (before, after)).view(TAPS, size, -1))
        return torch.cat(rows, dim=1).flatten(0, 1)


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
        self.axes["before"] = {0: "n"}

    def start(self, *inputs: Tensor) -> Loop:
        """Decode, and lay out the weights; what is above and left of the image is zero."""
        codes, noise, temperature, mean = inputs
        stack, (height, width) = self.stack, self.size
        features = self.decoder(codes).flatten(2)
        values = stack.channels + len(stack.further) * stack.filters
        device = features.device
        before = features[:, :1, :1] * torch.zeros(width + 1, values, device=device)
        column = torch.arange(width, device=device).repeat(height)
        inside = torch.stack([column > 0, column >= 0, column < width - 1, column > 0], dim=1)
        fixed = {
            "temperature": temperature,
            "mean": mean,
            "weight_before": stack.weight_before(),
            "bias": torch.cat([layer.bias for layer in stack.layers]),
            # Steps back by a row and a pixel, a row, a row less a pixel, and a pixel.
            "places": torch.tensor([0, 1, min(2, width), width], device=device),
        }
        for index, layer in enumerate(stack.layers[1:]):
            fixed[f"weight_own_{index}"] = layer.weight_own()
        return Loop(
            carried={"before": before},
            slices={
                "features": features.permute(2, 0, 1),
                "noise": noise.transpose(0, 1),
                "inside": inside.float()[..., None],
            },
            fixed=fixed,
        )

    def step(self, carried: Tensors, sliced: Tensors, fixed: Tensors) -> tuple[Tensors, Tensors]:
        """Run the stack on one pixel, and draw it."""
        stack, before = self.stack, carried["before"]
        seen = before.index_select(1, fixed["places"]) * sliced["inside"]
        sums = torch.addmm(fixed["bias"], seen.flatten(1), fixed["weight_before"]).split(stack.filters, dim=1)
        x = sums[0] + sliced["features"]
        taken = []
        for index, before_it in enumerate(sums[1:]):
            now = F.elu(x)
            taken.append(now)
            x = x + torch.addmm(before_it, now, fixed[f"weight_own_{index}"])
        output = F.linear(F.elu(x), stack.head.weight.flatten(1), stack.head.bias)
        drawn = self.distribution.draw(output, sliced["noise"], fixed["temperature"])
        row = torch.cat([drawn * 2 - 1, *taken], dim=1)
        before = torch.cat([before[:, 1:], row[:, None]], dim=1)
        return {"before": before}, {"drawn": drawn, "expected": self.distribution.mean(output)}

    def finish(self, _: Tensors, emitted: Tensors, fixed: Tensors, /) -> tuple[Tensor, ...]:
        """The pixels, or their means, as an image."""
        pixels = torch.where(fixed["mean"] == 1, emitted["expected"], emitted["drawn"])
        return ((pixels * 255).round().byte().transpose(0, 1).unflatten(1, self.size),)

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
