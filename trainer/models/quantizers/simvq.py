"""SimVQ (2411.02038): fixed code vectors times a learned linear layer.

    codebook C, fixed ──> layer W, learned ──> code vectors C W ──> lookup

A gradient moves W, and so every code vector, where that of a plain codebook moves the chosen ones alone
(sec. 3.2). So no code is left behind, and none needs a restart.
"""

import torch
from torch import Tensor, nn

from trainer.models.quantizers.base import Fixed, Quantizer, on_sphere
from trainer.models.quantizers.learned import TrainedCodebook


class SimVQ(TrainedCodebook):
    """Replaces each vector of a grid by the nearest row of ``codebook @ layer``.

    ``codebook``, float32 ``(size, dim)``, is drawn from a normal distribution and stays as it is: k-means
    centres of an untrained encoder lie in few dimensions, which no layer undoes. ``layer``, float32
    ``(dim, dim)``, starts as the identity. Served is their product.
    """

    def __init__(self, size: int, dim: int, *, normalise: bool = False, rotate: bool = False) -> None:
        super().__init__(size, dim, by_gradient=True, normalise=normalise, rotate=rotate)
        nn.init.normal_(self.codebook, std=dim**-0.5)
        self.layer = nn.Parameter(torch.eye(dim))

    def vectors(self) -> Tensor:
        """The code vectors as they are looked up, float32 ``(K, D)``; of length 1 with ``normalise``."""
        vectors = self.codebook @ self.layer
        return on_sphere(vectors) if self.normalise else vectors

    def serving(self) -> Quantizer:
        return Fixed(self.vectors().detach(), normalise=self.normalise)
