"""Every family of diffusers: our networks and what is published against diffusers' own model."""

import io
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from rich.console import Console
from torch import Tensor

from service.contract.manifest import CodesSpec, Manifest, Role
from tests.unit.trainer.pretrained.pictures import pictures
from tests.unit.trainer.pretrained.weights import assert_starts_from
from trainer.evaluation.exported_model import ExportedModel, open_exported
from trainer.export.onnx_export import CODEBOOK_FILE
from trainer.export.precision.half_graph import half_graph
from trainer.pretrained.checkpoint_files import CheckpointFiles
from trainer.pretrained.families import recognised
from trainer.pretrained.importer import import_checkpoint, load

pytestmark = pytest.mark.slow

CASES = ("kl", "kl-deeper", "kl-bare", "vq", "vq-bare", "tiny", "dc", "dc-deeper", "dc-other")
# One of each family: an export takes 10 seconds. The attention of a VQ model is that of "kl".
EXPORTED = ("kl", "vq-bare", "tiny", "dc")
# Of latents, relative to the value or to 1; of the two distances behind a code that differs.
LATENTS, TIE = 1e-4, 1e-5
WITHIN_ONE_LEVEL = 0.999
# Heights, widths and images.
SIZES = ((32, 32, 1), (24, 40, 5), (64, 48, 2))


class Imported(NamedTuple):
    """A model of diffusers, and what was published of it in ``folder``."""

    folder: Path
    model: Any
    exported: ExportedModel
    manifest: Manifest


@pytest.fixture(scope="module")
def imported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Imported:
    folder = tmp_path_factory.mktemp(request.param)
    model = saved(request.param, folder / "checkpoint")
    # Half as large as the models are by default, or tracing them takes long.
    import_checkpoint(
        folder / "checkpoint", Console(file=io.StringIO()), name="it", image_size=32, export_to=folder
    )
    return Imported(folder, model, *open_exported(folder / "it"))


def saved(case: str, checkpoint: Path) -> Any:
    # Imported late: it takes seconds.
    from tests.fixtures.diffusers_models import CASES as MODELS

    return MODELS[case].save(checkpoint)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_the_network_agrees_with_diffusers(case: str, tmp_path: Path) -> None:
    model, files = saved(case, tmp_path), CheckpointFiles.find(tmp_path)
    config = files.read_config()
    _, family = recognised(config, None, case)
    net = load(files, family, family.config_class().of(config, case))[0].architecture
    pixels = torch.from_numpy(pictures(24, 40, 2)).permute(0, 3, 1, 2) / 127.5 - 1
    found, expected = net.encode(pixels), model.encode(pixels)
    # Of a posterior the log-variances too.
    latents = expected.latent_dist.parameters if net.posterior else latents_of(model, pixels)
    assert relative(found, latents) < LATENTS
    z = found.chunk(2, dim=1)[0] if net.posterior else found
    if net.quantizer is None:
        decoded = model.decode(z).sample
    else:
        check_codes(model, pixels, net.quantizer.encode(z))
        decoded = model.decode(z, force_not_quantize=True).sample
    assert relative(net.decode(z), decoded) < LATENTS


@pytest.mark.parametrize("imported", EXPORTED, indirect=True)
@torch.no_grad()
def test_the_graphs_agree_with_diffusers(imported: Imported) -> None:
    _, model, exported, manifest = imported
    for height, width, count in SIZES:
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
            latents = latents_of(model, pixels).permute(0, 2, 3, 1)
            assert relative(torch.from_numpy(codes), latents) < LATENTS
            expected = model.decode(torch.from_numpy(codes).permute(0, 3, 1, 2)).sample
        levels = ((expected + 1) * 127.5).clamp(0, 255).round().permute(0, 2, 3, 1).numpy()
        difference = np.abs(levels - decoded.astype(np.float32))
        assert decoded.shape == images.shape
        assert np.mean(difference <= 1) >= WITHIN_ONE_LEVEL


@pytest.mark.parametrize("imported", EXPORTED, indirect=True)
def test_what_is_published_has_the_weights(imported: Imported) -> None:
    files = CheckpointFiles.find(imported.folder / "checkpoint")
    config = files.read_config()
    _, family = recognised(config, None, "it")
    net = load(files, family, family.config_class().of(config, "it"))[0].architecture
    assert_starts_from(imported.folder / "it", net)


@pytest.mark.parametrize("imported", ["kl", "vq-bare"], indirect=True)
def test_normalisations_in_float16_are_one_operation(imported: Imported) -> None:
    for name in ("encode", "decode"):
        file = imported.manifest.operations[name].graph
        plain = onnx.load(imported.folder / "it" / file, load_external_data=False)
        made = half_graph(plain, "16", CODEBOOK_FILE)
        before, after = (Counter(node.op_type for node in model.graph.node) for model in (plain, made))
        assert after["GroupNorm"] == before["InstanceNormalization"] > 0
        assert after["InstanceNormalization"] == 0
        # The shapes of attention; the lookup has its own.
        assert after["Concat"] == 0 or imported.manifest.codes.codebook_size is not None


@pytest.mark.parametrize("imported", ["kl"], indirect=True)
@torch.no_grad()
def test_a_seed_draws_from_the_posterior(imported: Imported) -> None:
    _, model, exported, manifest = imported
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
        {"dtype": "float32", "shape": [16, 16, 4], "stride": 2, "scaling": {"factor": 0.36, "shift": 0.25}}
    )


def relative(values: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the value or to 1."""
    return float(((values - expected).abs() / expected.abs().clamp(min=1)).max())


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
