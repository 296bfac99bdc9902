"""The scaling of a grid of continuous codes, to latents of mean 0 and variance 1."""

import math

from service.contract.manifest import CodesSpec, Role, Scaling
from trainer.data.loading import Dataset
from trainer.data.sources.pictures import LongStep
from trainer.evaluation.exported_model import ExportedModel, whole
from trainer.evaluation.reconstructions import Spread
from trainer.evaluation.results import first

MOST_IMAGES = 4096


def scaled(codes: CodesSpec, exported: ExportedModel, dataset: Dataset, step: LongStep) -> CodesSpec:
    """Codes with a scaling, by which those of training images have mean 0 and variance 1, all together.

    It is measured on the first training images, as they are encoded without a seed (2112.10752, appendix G).
    Codes that do not vary have none.
    """
    count, spread = min(MOST_IMAGES, len(dataset.train)), Spread()
    with step("measuring the scaling of the codes") as report, whole(dataset.train, dataset.spec) as batches:
        for batch in first(batches.ordered(), count):
            images = {Role.images: batch.images.permute(0, 2, 3, 1).contiguous()}
            encoded = exported.run(("encode",), range(len(batch)), images, default_noise=("encode",))
            spread.add(encoded.arrays[Role.codes].reshape(-1, 1).double())
            report(spread.count // math.prod(codes.shape), count)
    deviation = float(spread.variances()) ** 0.5
    if not deviation > 0:
        return codes
    scaling = Scaling(factor=1 / deviation, shift=float(spread.means()))
    return codes.model_copy(update={"scaling": scaling})
