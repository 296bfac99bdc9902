"""What turns a grid of encoder outputs into codes, and codes into vectors for the decoder.

base.py        the interface of all quantizers; a codebook that is looked up; how evenly codes are used
lookup.py      the nearest code of each row
learned.py     a codebook that is learned, by a gradient or by moving averages (1711.00937); k-means
fsq.py         rounding to fixed levels, without a learned codebook (2309.15505)
"""

from trainer.models.quantizers.base import Codebook, Quantized, Quantizer, perplexity, usage
from trainer.models.quantizers.fsq import FSQ
from trainer.models.quantizers.learned import LearnedCodebook, Update

__all__ = ["FSQ", "Codebook", "LearnedCodebook", "Quantized", "Quantizer", "Update", "perplexity", "usage"]
