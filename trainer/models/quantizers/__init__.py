"""What turns a grid of encoder outputs into codes, and codes into vectors for the decoder.

base.py        the interface of all quantizers; a codebook that is looked up; how evenly codes are used
lookup.py      the nearest code of each row
learned.py     a codebook that is learned, by a gradient or by moving averages (1711.00937); k-means
simvq.py       fixed code vectors times a learned linear layer (2411.02038)
residual.py    a code for each of several levels, of which each refines those before it (2203.01941)
multi_scale.py a grid of codes for each level, from coarse to fine (2404.02905)
lookup_free.py the sign of each dimension, without a stored codebook (2310.05737)
fsq.py         rounding to fixed levels, without a learned codebook (2309.15505)
"""

from trainer.models.quantizers.base import (
    Codebook,
    InnerProducts,
    LookedUp,
    Quantized,
    Quantizer,
    perplexity,
    usage,
)
from trainer.models.quantizers.fsq import FSQ
from trainer.models.quantizers.learned import LearnedCodebook, Update
from trainer.models.quantizers.multi_scale import MultiScale, MultiScaleQuantizer
from trainer.models.quantizers.residual import Residual
from trainer.models.quantizers.simvq import SimVQ

__all__ = [
    "FSQ",
    "Codebook",
    "InnerProducts",
    "LearnedCodebook",
    "LookedUp",
    "MultiScale",
    "MultiScaleQuantizer",
    "Quantized",
    "Quantizer",
    "Residual",
    "SimVQ",
    "Update",
    "perplexity",
    "usage",
]
