"""The interface of a pretrained autoencoder, between pixels and what it makes of them."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from torch import Tensor, nn

from service.contract.manifest import Scaling, Tiling
from trainer.models.quantizers import Quantizer

NORMALISED = "its layers are normalised over the whole image"


class Architecture(nn.Module, ABC):
    """An autoencoder: pixels, float32 ``(B, C, H, W)`` in [-1, 1], to z, float32 ``(B, c, h, w)``, and back.

    It is made of its config, a ``CheckpointConfig``, and sets:

    - ``image_channels``: C
    - ``latent_channels``: c
    - ``size``: the native height and width in pixels, unless the command gives another
    - ``multiple_of``: height and width may be any multiples of it; None if there is one size only
    - ``stride``: pixels of a cell along an axis; None if the codes are a sequence
    - ``sequence_length``: how many codes a sequence has
    - ``quantizer``: turns z into discrete codes; without it z itself is the codes
    - ``stores_codebook``: whether the quantizer has code vectors that are worth a file of their own
    - ``posterior``: whether ``encode`` gives 2 c channels, the means and then the log-variances, which are
      clamped to ``log_variances``
    - ``encodes``: the names of its parts that are of ``encode`` alone
    - ``scaling``: for continuous codes
    - ``renames``: applied to the names of its tensors before those of its family; for names that depend on
      the number of its layers
    - ``tilings``: of encode and decode; None if ``untiled``, which says why they cannot be tiled

    A sequence of n discrete codes is a z of ``(B, c, 1, n)``.
    """

    log_variances: ClassVar[tuple[float, float]] = (-30.0, 20.0)
    encodes: ClassVar[tuple[str, ...]] = ("encoder", "quant_conv", "latent_tokens")

    image_channels: Literal[1, 3] = 3
    latent_channels: int
    size: int
    multiple_of: int | None
    stride: int | None
    sequence_length: int = 0
    quantizer: Quantizer | None
    stores_codebook: bool = True
    posterior: bool = False
    scaling: Scaling | None = None
    renames: tuple[tuple[str, str], ...] = ()
    tilings: tuple[Tiling, Tiling] | None = None
    untiled: str | None = NORMALISED

    def __init__(self) -> None:
        super().__init__()
        # Not as an attribute of the class, which would hide a module of that name.
        self.quantizer = None

    @abstractmethod
    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels to z, or to the parameters of a posterior over z."""

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """Z to pixels, which may be outside [-1, 1] by a little."""
