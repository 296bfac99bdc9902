"""What turns a grid of encoder outputs into codes, and codes into vectors for the decoder.

base.py        what every quantizer does
learned.py     a codebook that is learned, by a gradient or by moving averages (1711.00937)
fsq.py         rounding to fixed levels in a codebook's place (2309.15505)
lookup.py      the nearest code vector
kmeans.py      where a codebook starts
gradients.py   how the decoder's gradient gets past the lookup
use.py         how evenly the codes are used
processes.py   sums and draws that several training processes share
"""

from trainer.config import VQVAEConfig
from trainer.models.quantizers.base import Quantized, Quantizer
from trainer.models.quantizers.code_usage import COLLAPSE_ADVICE, perplexity, usage
from trainer.models.quantizers.fsq import FSQ
from trainer.models.quantizers.learned import LearnedCodebook, Update

__all__ = [
    "COLLAPSE_ADVICE",
    "FSQ",
    "LearnedCodebook",
    "Quantized",
    "Quantizer",
    "Update",
    "perplexity",
    "quantizer_for",
    "usage",
]


def quantizer_for(config: VQVAEConfig) -> Quantizer:
    """The quantizer that a config describes, new."""
    if config.fsq_levels is not None:
        return FSQ(config.fsq_levels)
    return LearnedCodebook(
        config.codebook_size,
        config.codebook_dim,
        update=config.update,
        decay=config.decay,
        restart_below=config.restart_below,
        normalise=config.normalise_codes,
        rotate=config.rotation_trick,
    )
