"""Distance of pictures in the features of a network (LPIPS, 1801.03924)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# Added to squared lengths, so that a position without features has a gradient.
TINY = 1e-8


class FeatureDistance(nn.Module):
    """The distance of eq. 1 of 1801.03924, in the features of a fixed network.

    ``network`` turns pictures, float32 ``(B, C, H, W)`` in [-1, 1], into features, float ``(B, D, h, w)``, of
    several layers. At each position the features of a layer are scaled to length 1; the squared differences
    are weighed by channel, summed, averaged over the positions, and summed over the layers.

    ``channel_weights`` are float32 ``(D,)`` for each layer; without them all are 1.
    """

    def __init__(self, network: nn.Module, channel_weights: Sequence[Tensor] | None = None) -> None:
        super().__init__()
        self.network = network
        self.weighted = channel_weights is not None
        for layer, weights in enumerate(channel_weights or ()):
            self.register_buffer(f"weights{layer}", weights[:, None, None])
        self.to(memory_format=torch.channels_last)
        self.eval().requires_grad_(requires_grad=False)

    def forward(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """The mean distance over the batch, a scalar; its gradient is that of the reconstructions."""
        with torch.no_grad():
            wanted = [_unit_length(features) for features in self.network(target)]
        distance = reconstruction.new_zeros(())
        for layer, features in enumerate(self.network(reconstruction)):
            squares = (_unit_length(features) - wanted[layer]).square()
            if self.weighted:
                squares = squares * self.get_buffer(f"weights{layer}")
            distance = distance + squares.sum(dim=1).mean()
        return distance


def _unit_length(features: Tensor) -> Tensor:
    features = features.float()
    return features * (features.square().sum(dim=1, keepdim=True) + TINY).rsqrt()
