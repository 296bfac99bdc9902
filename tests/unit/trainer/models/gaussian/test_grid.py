"""The VAE with a grid of codes: its posterior, its graphs, and what is published of it."""

import pytest
import torch
from torch import Tensor

from service.contract.manifest import ImageSpec, Role
from service.contract.operations import CODES_AXES
from tests.fixtures import tiny_models
from tests.unit.trainer.conftest import MakeVAEConfig
from trainer import pipeline
from trainer.config import resolve
from trainer.data.batches import Batch
from trainer.data.loading import load
from trainer.errors import ConfigError, ExportError
from trainer.evaluation.exported_model import RECONSTRUCT, ExportedGraphs, ExportedModel, open_exported
from trainer.export.onnx_export import write_graphs
from trainer.export.parity import check_halo
from trainer.models.base import to_shares
from trainer.models.vae import VAE

SPEC = ImageSpec(channels=3, height=16, width=24)


@pytest.fixture(scope="module")
def vae() -> VAE:
    """One that sees as far as it can, as a trained one does: residual blocks start as nothing."""
    made = tiny_models.vae(SPEC, latent="grid", latent_channels=5)
    for parameter in made.parameters():
        parameter.detach().add_(0.1 * torch.randn_like(parameter))
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def graphs(vae: VAE, tmp_path_factory: pytest.TempPathFactory) -> ExportedGraphs:
    folder = tmp_path_factory.mktemp("grid")
    write_graphs(vae.graphs(), folder)
    return ExportedGraphs(folder, threads=1)


@pytest.fixture(scope="module")
def exported(vae: VAE, graphs: ExportedGraphs) -> ExportedModel:
    operations = {graph.operation: graph.as_operation() for graph in vae.graphs()}
    return ExportedModel(graphs, operations, vae.codes_spec())


def images(count: int, height: int = 16, width: int = 24) -> Tensor:
    """uint8 ``(N, H, W, C)``."""
    return tiny_models.images(count, 3, height, width).permute(0, 2, 3, 1).contiguous()


def test_the_codes_are_a_grid_of_images_of_any_size(vae: VAE) -> None:
    spec = vae.codes_spec()
    assert (spec.dtype, spec.shape, spec.stride) == ("float32", (4, 6, 5), 4)
    assert vae.image_spec().multiple_of == 4
    assert [graph.operation for graph in vae.graphs()] == ["encode", "decode"]
    encode, decode = (graph.as_operation() for graph in vae.graphs())
    (noise,) = (item for item in encode.inputs if item.role is Role.normal)
    assert (noise.shape, noise.default) == ((CODES_AXES,), 0)
    assert encode.tiling is not None
    assert decode.tiling is not None


def test_the_loss_has_the_divergence_of_every_number_of_the_grid(vae: VAE) -> None:
    given = images(3).permute(0, 3, 1, 2)
    vae.likelihood.requires_grad_(requires_grad=False)
    step = vae(given)
    posterior = vae.posterior(to_shares(given))
    variance = posterior.log_variance.exp()
    kl = ((variance + posterior.mean**2 - 1 - posterior.log_variance) / 2).sum(dim=(1, 2, 3)).mean()
    assert posterior.mean.shape == (3, 5, 4, 6)
    torch.testing.assert_close(step.metrics["kl"], kl)
    torch.testing.assert_close(step.loss, step.metrics["reconstruction_loss"] + kl)


def test_the_bound_of_a_grid_is_of_all_its_numbers(vae: VAE) -> None:
    given = images(4).permute(0, 3, 1, 2)
    figures = vae.monitor([Batch(given, None)])
    divergence = float(vae.posterior(to_shares(given)).divergence().sum(dim=(1, 2, 3)).mean())
    # log p(x|z) of the variance 1/2 is at most this.
    assert figures["test_elbo"] < -divergence - SPEC.height * SPEC.width * 3 / 2 * 1.14


@pytest.mark.slow
@pytest.mark.parametrize("size", [(16, 24), (4, 4), (32, 20)])
def test_the_graphs_are_torchs_at_any_size(vae: VAE, exported: ExportedModel, size: tuple[int, int]) -> None:
    given = images(5, *size)
    found = exported.run(RECONSTRUCT, range(5), {Role.images: given}, default_noise=RECONSTRUCT).arrays
    own = vae.posterior(to_shares(given.permute(0, 3, 1, 2)))
    codes = found[Role.codes]
    assert codes.shape == (5, size[0] // 4, size[1] // 4, 5)
    torch.testing.assert_close(codes, own.mean.permute(0, 2, 3, 1), rtol=1e-4, atol=1e-4)
    decoded = vae.decoded(codes.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    assert int((found[Role.images].int() - decoded.int()).abs().max()) <= 1
    assert vae.code_gap(given, codes).shape == codes.shape
    assert float(vae.code_gap(given, codes + 1).max()) == pytest.approx(1, abs=1e-3)
    # A draw is the mean and some noise in units of the standard deviation; a seed gives the same again.
    drawn, again = (
        exported.run(("encode",), range(5), {Role.images: given}, seed=3).arrays[Role.codes] for _ in range(2)
    )
    assert torch.equal(drawn, again)
    noise = (drawn - codes).permute(0, 3, 1, 2) / (own.log_variance / 2).exp()
    assert abs(float(noise.mean())) < 0.3
    if size != (4, 4):
        assert float(noise.std()) == pytest.approx(1, abs=0.1)


@pytest.mark.slow
def test_a_tile_with_its_halo_has_the_codes_of_the_whole(vae: VAE, graphs: ExportedGraphs) -> None:
    for graph in vae.graphs():
        assert graph.tiling is not None
        check_halo(graph, graph.tiling.halo, vae.codes_spec(), graphs)
        with pytest.raises(ExportError, match=f"depends on more than its halo of {graph.tiling.halo - 1}"):
            check_halo(graph, graph.tiling.halo - 1, vae.codes_spec(), graphs)


def test_a_classifier_is_of_vectors(make_vae_config: MakeVAEConfig) -> None:
    with pytest.raises(ConfigError, match="latent is 'grid': "):
        resolve("ncp", flags={"latent": "grid"})
    assert make_vae_config(latent="grid").latent_channels == 4


@pytest.mark.slow
def test_a_run_is_published_with_its_scaling(make_vae_config: MakeVAEConfig) -> None:
    config = make_vae_config(latent="grid", latent_channels=3, beta=1e-6, epochs=1)
    folder = pipeline.train(config, tiny_models.console()).folder
    model, manifest = open_exported(folder)
    assert manifest.codes.shape == (7, 7, 3)
    assert manifest.image.multiple_of == 4
    scaling = manifest.codes.scaling
    assert scaling is not None
    dataset = load(config.data)
    pixels = dataset.train.take(torch.arange(len(dataset.train))).images.permute(0, 2, 3, 1).contiguous()
    codes = model.run(("encode",), range(len(pixels)), {Role.images: pixels}, default_noise=("encode",))
    latents = (codes.arrays[Role.codes].double() - scaling.shift) * scaling.factor
    assert float(latents.mean()) == pytest.approx(0, abs=1e-4)
    assert float(latents.std()) == pytest.approx(1, abs=1e-4)
    row = manifest.measures[0]
    assert row.values["active_units"] <= 3
    assert "7x7x3 grids of numbers, the latents" in (folder / "README.md").read_text()
