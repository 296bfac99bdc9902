"""Does ONNX Runtime compute what torch does? Compared on real images, with what may differ and why."""

import numpy as np
import torch
from numpy.typing import NDArray

from service.manifest import Parity
from trainer.errors import ExportError
from trainer.stage import Model

# Both sum float32 products in another order. A code may flip only if the two distances are this close,
# relative to the vector's squared length and the code's; a pixel near x.5 may round to the neighbour.
FLIP_GAP = 1e-5
PIXELS_WITHIN_ONE_LEVEL = 0.999
# A sampler's draw may differ only if its noise is this close to where the codes' probabilities meet.
DRAW_GAP = 1e-4
TOLERANCE = (
    f"{PIXELS_WITHIN_ONE_LEVEL:.1%} of pixels within 1 of 255 for the same codes; codes differ only where "
    f"two distances tie within {FLIP_GAP:g} of their scale: float32 sums in another order"
)


class ParityCheck:
    """Gathers the differences between a torch model and its exported graphs."""

    def __init__(self, model: Model) -> None:
        graphs = {graph.operation: graph.module.eval() for graph in model.graphs()}
        self._model, self._encode, self._decode = model, graphs["encode"], graphs["decode"]
        self.images = 0
        self._codes = self._flips = self._pixels = self._within = self._largest = 0
        self._gap = 0.0

    @torch.no_grad()
    def add(
        self, images: NDArray[np.uint8], codes: NDArray[np.generic], decoded: NDArray[np.generic]
    ) -> None:
        """Compare a batch: images, uint8 ``(N, H, W, C)``, and what ONNX Runtime made of them."""
        self.images += len(images)
        expected = self._encode(torch.from_numpy(images)).numpy()
        differs = expected != codes
        self._codes += codes.size
        self._flips += int(differs.sum())
        if differs.any():
            gaps = self._model.code_gap(torch.from_numpy(images), torch.from_numpy(codes)).numpy()
            self._gap = max(self._gap, float(gaps[differs].max()))
        # From the same codes, so that a tie between codes is not counted as an error of the decoder.
        again = self._decode(torch.from_numpy(codes)).numpy()
        difference = np.abs(again.astype(np.int16) - decoded.astype(np.int16))
        self._pixels += difference.size
        self._within += int((difference <= 1).sum())
        self._largest = max(self._largest, int(difference.max()))

    def verdict(self) -> Parity:
        """The figures for the manifest. Raises ExportError if they are out of tolerance."""
        parity = Parity(
            images=self.images,
            within_one_level=self._within / self._pixels,
            largest_difference=self._largest,
            code_flips=self._flips,
            codes=self._codes,
            flip_gap=self._gap,
            tolerance=TOLERANCE,
        )
        if parity.within_one_level < PIXELS_WITHIN_ONE_LEVEL or parity.flip_gap > FLIP_GAP:
            raise ExportError(
                "ONNX Runtime disagrees with torch: "
                f"{parity.within_one_level:.3%} of pixels are within 1 level, and "
                f"{parity.code_flips} of {parity.codes} codes differ, by up to {parity.flip_gap:.2g} of "
                f"their distances. Allowed: {TOLERANCE}"
            )
        return parity


def with_draws(parity: Parity, gap: float) -> Parity:
    """Add how far a sampler's draws are from torch's. Raises ExportError if they are out of tolerance."""
    if not gap <= DRAW_GAP:
        raise ExportError(
            f"ONNX Runtime disagrees with torch: a code was drawn {gap:.2g} away from the probabilities in "
            f"which torch draws it; allowed is {DRAW_GAP:g}"
        )
    tolerance = f"{parity.tolerance}; draws differ only where the noise is within {DRAW_GAP:g} of a tie"
    return parity.model_copy(update={"draw_gap": gap, "tolerance": tolerance})
