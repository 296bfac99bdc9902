"""Every family of diffusers: the published graphs against diffusers' own model, in sizes and batches."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from service.contract.manifest import CodesSpec, Manifest, Role
from tests.unit.trainer.pretrained.pictures import pictures
from trainer.evaluation.exported_model import ExportedModel, open_exported
from trainer.pretrained.importer import import_checkpoint

pytestmark = pytest.mark.slow

CASES = ("kl", "kl-bare", "vq", "vq-large", "tiny", "dc", "dc-other")
# Of latents, relative to the value or to 1; of the two distances behind a code that differs.
LATENTS, TIE = 1e-4, 1e-5
WITHIN_ONE_LEVEL = 0.999
SIZES = ((32, 32), (24, 40), (64, 48))


@pytest.fixture(params=CASES)
def imported(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, ExportedModel, Manifest]:
    """A model of diffusers, and what was published of it."""
    from tests.fixtures.diffusers_models import CASES as MODELS

    checkpoint = tmp_path / "checkpoint"
    model = MODELS[request.param].save(checkpoint)
    # Half as large as the models are by default, or tracing them takes long.
    import_checkpoint(checkpoint, Console(file=io.StringIO()), name="it", image_size=32, export_to=tmp_path)
    return model, *open_exported(tmp_path / "it")


@torch.no_grad()
def test_the_graphs_agree_with_diffusers(imported: tuple[Any, ExportedModel, Manifest]) -> None:
    model, exported, manifest = imported
    for height, width in SIZES:
        for count in (1, 5):
            images = pictures(height, width, count)
            results = exported.results(
                ("encode",), range(count), {Role.images: images}, default_noise=("encode",)
            )
            codes = results.arrays[Role.codes]
            assert codes.shape[1:] == manifest.codes.shape_for(height, width)
            pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
            decoded = exported.results(("decode",), range(count), {Role.codes: codes}).arrays[Role.images]
            if manifest.codes.codebook_size is not None:
                check_codes(model, pixels, torch.from_numpy(codes).long())
                vectors = model.quantize.embedding.weight[torch.from_numpy(codes).long()].permute(0, 3, 1, 2)
                expected = model.decode(vectors, force_not_quantize=True).sample
            else:
                latents = latents_of(model, pixels).permute(0, 2, 3, 1).numpy()
                assert np.max(np.abs(codes - latents) / np.maximum(np.abs(latents), 1)) < LATENTS
                expected = model.decode(torch.from_numpy(codes).permute(0, 3, 1, 2)).sample
            levels = ((expected + 1) * 127.5).clamp(0, 255).round().permute(0, 2, 3, 1).numpy()
            difference = np.abs(levels - decoded.astype(np.float32))
            assert decoded.shape == images.shape
            assert np.mean(difference <= 1) >= WITHIN_ONE_LEVEL


@torch.no_grad()
def test_a_seed_draws_from_the_posterior(tmp_path: Path) -> None:
    from tests.fixtures.diffusers_models import CASES as MODELS

    model = MODELS["kl"].save(tmp_path / "checkpoint")
    import_checkpoint(tmp_path / "checkpoint", Console(file=io.StringIO()), export_to=tmp_path, name="it")
    exported, manifest = open_exported(tmp_path / "it")
    images = pictures(24, 40, 2)
    given = {Role.images: images}
    mean = exported.results(("encode",), range(2), given, default_noise=("encode",)).arrays[Role.codes]
    drawn = exported.results(("encode",), range(2), given, seed=3).arrays[Role.codes]
    posterior = model.encode(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1).latent_dist
    noise = (drawn - mean) / posterior.std.permute(0, 2, 3, 1).numpy()
    assert 0.85 < noise.std() < 1.15
    assert not np.allclose(noise[0], noise[1])
    # The second row alone is drawn as it is beside the first.
    alone = exported.results(("encode",), range(1, 2), {Role.images: images[1:]}, seed=3).arrays[Role.codes]
    np.testing.assert_allclose(alone[0], drawn[1], atol=1e-4)
    assert manifest.codes == CodesSpec.model_validate(
        {"dtype": "float32", "shape": [8, 8, 4], "stride": 4, "scaling": {"factor": 0.36, "shift": 0.25}}
    )


def latents_of(model: Any, pixels: Tensor) -> Tensor:
    """The latents by diffusers: the posterior's mean, or what the encoder gives."""
    encoded = model.encode(pixels)
    if hasattr(encoded, "latent_dist"):
        return encoded.latent_dist.mean
    return encoded.latents if hasattr(encoded, "latents") else encoded.latent


def check_codes(model: Any, pixels: Tensor, codes: Tensor) -> None:
    """Codes are the nearest by diffusers' own latents, but for ties."""
    z = model.encode(pixels).latents.permute(0, 2, 3, 1).double()
    table = model.quantize.embedding.weight.double()
    distances = torch.cdist(z.flatten(0, 2), table).square()
    best, chosen = distances.amin(dim=1), distances.gather(1, codes.flatten()[:, None])[:, 0]
    scale = z.flatten(0, 2).square().sum(dim=1) + table[codes.flatten()].square().sum(dim=1)
    assert float(((chosen - best) / scale).max()) < TIE
    assert (distances.argmin(dim=1) == codes.flatten()).double().mean() > 0.99
