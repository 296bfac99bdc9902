from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from service.contract.manifest import ImageSpec
from tests.fixtures import tiny_models
from trainer.evaluation.exported_model import ExportedGraphs
from trainer.export.onnx_export import write_graphs
from trainer.models.base import Model

# Of the stride of the models: a grid of one row.
ONE_ROW = ImageSpec(channels=1, height=4, width=12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda: tiny_models.model(ONE_ROW, fsq_levels=(5, 5), codebook_size=25, codebook_dim=2),
        lambda: tiny_models.vae(ONE_ROW, latent="grid", latent_channels=2),
    ],
    ids=["codes", "latents"],
)
@torch.no_grad()
def test_images_of_one_cell_are_no_reason_for_graphs_of_one_size(
    tmp_path: Path, make: Callable[[], Model]
) -> None:
    model = make().eval()
    encode, decode = model.graphs()
    write_graphs([encode, decode], tmp_path, model.codebook())
    run = ExportedGraphs(tmp_path, threads=1)
    for height, width in ((4, 12), (4, 4), (8, 4)):
        images = tiny_models.images(3, height=height, width=width).permute(0, 2, 3, 1)
        noise = torch.zeros(3, height // 4, width // 4, 2)
        given = {item.name: images if item.name == "images" else noise for item in encode.inputs}
        (codes,) = run(encode, given)
        assert codes.shape[1:3] == noise.shape[1:3]
        (decoded,) = run(decode, {"codes": codes})
        expected = model.reconstruct(images.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        assert int((decoded.int() - expected.int()).abs().max()) <= 1
