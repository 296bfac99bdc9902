"""Every family that is not of diffusers: our networks and what is published against the original model."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from service.contract.manifest import Role
from tests.fixtures.original_tokenizers.cases import CASES, Case, shrink_titok
from tests.unit.trainer.pretrained.pictures import pictures
from tests.unit.trainer.pretrained.weights import assert_starts_from
from trainer.evaluation.exported_model import open_exported
from trainer.export.parity import FLIP_GAP
from trainer.pretrained.architectures.base import Architecture
from trainer.pretrained.checkpoint_files import CheckpointFiles
from trainer.pretrained.families import FAMILIES, recognised
from trainer.pretrained.importer import import_checkpoint, load

# Of latents, relative to the value or to 1. Pixels may differ by a level for this share of them.
LATENTS, WITHIN_ONE_LEVEL = 1e-4, 0.999
# One of each network and of each way to look a code up. The others have the same graphs, by other names.
EXPORTED = ("ibq", "magvit", "titok-legacy", "titok-vae")

# The width of a LlamaGen is fixed, so its case is slow.
every_case = pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=pytest.mark.slow if name == "llamagen" else ())
        for name, case in CASES.items()
    ],
)


@pytest.fixture(autouse=True)
def _small_titok(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink_titok(monkeypatch)


@every_case
@torch.no_grad()
def test_the_network_agrees_with_the_original(case: Case, tmp_path: Path) -> None:
    original = case.model()
    net = loaded(case.save(tmp_path, original.state_dict()), case)
    images = torch.from_numpy(pictures(*case.sizes[1 % len(case.sizes)], 2)).permute(0, 3, 1, 2)
    z, expected = net.encode(images / 127.5 - 1), original.latents(given(case, images))
    means = z.chunk(2, dim=1)[0] if net.posterior else z
    assert relative(means.view(expected.shape), expected) < LATENTS
    if net.quantizer is None:
        codes, vectors = expected, means
    else:
        codes = original.codes(given(case, images))
        assert len(codes.unique()) > 3
        grid = codes.view(len(z), *z.shape[2:])
        assert float(net.quantizer.gap(z, grid).max()) < FLIP_GAP
        vectors = net.quantizer.embed(grid)
    made, expected = net.decode(vectors), original.images(codes)
    assert relative(made, expected * 2 - 1 if case.unit_range else expected) < LATENTS


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTED)
@torch.no_grad()
def test_the_graphs_agree_with_the_original(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    original = case.model()
    file = case.save(tmp_path / "checkpoint", original.state_dict())
    net = loaded(file, case)
    import_checkpoint(
        tmp_path / "checkpoint",
        Console(file=io.StringIO()),
        name="it",
        # Not the native 128 of a MAGVIT: with its small stride, attention over all cells is slow.
        image_size=case.sizes[0][0],
        export_to=tmp_path,
    )
    exported, manifest = open_exported(tmp_path / "it")
    assert manifest.kind == case.family
    assert_starts_from(tmp_path / "it", net)
    for number, (height, width) in enumerate(case.sizes):
        for count in (1, 5) if number == 0 else (3,):
            images = pictures(height, width, count)
            pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
            results = exported.results(
                ("encode",), range(count), {Role.images: images}, default_noise=("encode",)
            )
            codes = torch.from_numpy(results.arrays[Role.codes])
            assert codes.shape[1:] == manifest.codes.shape_for(height, width)
            if net.quantizer is None:
                expected = original.latents(given(case, pixels)).transpose(1, 2)
                assert relative(codes, expected) < LATENTS
                decoded = original.images(codes.transpose(1, 2))
            else:
                check_codes(net, original, case, pixels, codes)
                decoded = original.images(codes.long())
            again = exported.results(("decode",), range(count), {Role.codes: codes.numpy()})
            assert_alike(again.arrays[Role.images], levels(case, decoded))


def loaded(file: Path, case: Case) -> Architecture:
    """Our network, with the tensors of a checkpoint."""
    files = CheckpointFiles.find(file)
    config = files.read_config()
    name, row = recognised(config, None, str(file))
    assert name == case.family
    assert row is FAMILIES[name]
    model, _ = load(files, row, row.config_class().of(config, str(file)))
    return model.architecture


def given(case: Case, images: Tensor) -> Tensor:
    """Images, uint8, as the original takes them."""
    return images / 255 if case.unit_range else images / 127.5 - 1


def levels(case: Case, images: Tensor) -> NDArray[np.float32]:
    """What the original makes, as the service's pixels, not rounded."""
    made = images * 255 if case.unit_range else (images + 1) * 127.5
    return np.asarray(made.clamp(0, 255).permute(0, 2, 3, 1).numpy())


def relative(values: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the value or to 1."""
    return float(((values - expected).abs() / expected.abs().clamp(min=1)).max())


def check_codes(net: Architecture, original: Any, case: Case, images: Tensor, codes: Tensor) -> None:
    """Codes of a graph are the original's, but where two codes tie."""
    assert net.quantizer is not None
    expected, z = original.codes(given(case, images)), net.encode(images / 127.5 - 1)
    gaps = net.quantizer.gap(z, codes.view(len(z), *z.shape[2:])).view(codes.shape)
    differs = codes != expected
    assert differs.double().mean() < 0.01
    assert not differs.any() or float(gaps[differs].max()) < FLIP_GAP


def assert_alike(images: NDArray[np.generic], expected: NDArray[np.float32]) -> None:
    """Pixels are the same, or a level apart."""
    assert images.shape == expected.shape
    assert np.mean(np.abs(images.astype(np.float32) - expected.round()) <= 1) >= WITHIN_ONE_LEVEL
