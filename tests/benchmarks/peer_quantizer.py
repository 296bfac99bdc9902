"""vector-quantize-pytorch's quantizers instead of our own, in the same networks and the same loop."""

import torch
from torch import Tensor
from vector_quantize_pytorch import FSQ as PeerFSQ  # noqa: N811 - ours has the same name
from vector_quantize_pytorch import ResidualVQ, VectorQuantize
from vector_quantize_pytorch import SimVQ as PeerSimVQ

from trainer.config import VQVAEConfig
from trainer.models.quantizers import Quantized, Quantizer
from trainer.models.quantizers.base import counted
from trainer.models.quantizers.residual import counted_by_level


class PeerQuantizer(Quantizer):
    """The peer's quantizer with the options that match those of a config.

    ``rows`` are the codes of a step, by which an even use of the codebook is known. Its loss of a codebook
    that learns by a gradient is one and the same for codes and encoder, so beta counts for both; to AdamW the
    scale of the codes' gradient is all the same. Its SimVQ weighs the two itself. Residual levels are trained
    without dropout of levels.
    """

    def __init__(self, config: VQVAEConfig, decay: float, rows: int) -> None:
        super().__init__(config.codebook_size, config.codebook_dim)
        self.levels = config.levels if config.levels > 1 else None
        self.update = "fsq" if config.fsq_levels is not None else config.update
        if config.fsq_levels is not None:
            self.peer = PeerFSQ(list(config.fsq_levels))
            return
        if config.update == "simvq":
            self.peer = PeerSimVQ(
                config.codebook_dim,
                config.codebook_size,
                channel_first=True,
                rotation_trick=config.rotation_trick,
                input_to_quantize_commit_loss_weight=config.commitment,
            )
            return
        even_use = rows / config.codebook_size
        options = {
            "dim": config.codebook_dim,
            "codebook_size": config.codebook_size,
            "decay": decay,
            "kmeans_init": config.kmeans_start,
            "threshold_ema_dead_code": config.restart_below * even_use,
            "use_cosine_sim": config.normalise_codes,
            "rotation_trick": config.rotation_trick,
        }
        if self.levels is None:
            by_gradient = config.update == "gradient"
            self.peer = VectorQuantize(
                **options,
                learnable_codebook=by_gradient,
                ema_update=not by_gradient,
                accept_image_fmap=True,
            )
        else:
            self.peer = ResidualVQ(**options, num_quantizers=self.levels)

    def forward(self, z: Tensor) -> Quantized:
        codebook_loss = commitment_loss = None
        with torch.autocast(z.device.type, enabled=False):
            if self.levels is None:
                vectors, codes, *losses = self.peer(z.float())
            else:
                vectors, codes, *losses = self._residual(z.float())
        if self.update == "simvq":
            codebook_loss = losses[0].sum()
        elif self.update != "fsq":
            commitment_loss = losses[0].sum()
        codes = codes.long()
        counts = (counted if self.levels is None else counted_by_level)(codes, self.size)
        return Quantized(vectors, codes, codebook_loss, commitment_loss, counts)

    def _residual(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """In the peer's other order of axes: it refuses grids of more than a level (1.32.0)."""
        batch, _, height, width = z.shape
        vectors, codes, losses = self.peer(z.flatten(2).transpose(1, 2))
        return vectors.transpose(1, 2).view(z.shape), codes.view(batch, height, width, -1), losses

    def encode(self, z: Tensor) -> Tensor:
        return self(z).codes

    def gap(self, z: Tensor, codes: Tensor) -> Tensor:
        raise TypeError("the peer's quantizer is not exported, so it has no gap to its graph")
