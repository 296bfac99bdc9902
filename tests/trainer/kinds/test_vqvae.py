from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from service.manifest import ImageSpec
from tests.trainer import tiny
from trainer.kinds.base import to_unit
from trainer.kinds.vqvae import VQVAE
from trainer.parity import FLIP_GAP

RGB_16x24 = ImageSpec(channels=3, height=16, width=24)


def encode(model: VQVAE, images: Tensor) -> Tensor:
    graph = next(graph for graph in model.graphs() if graph.operation == "encode")
    codes: Tensor = graph.module.eval()(images.permute(0, 2, 3, 1))
    return codes


def decode(model: VQVAE, codes: Tensor) -> Tensor:
    graph = next(graph for graph in model.graphs() if graph.operation == "decode")
    images: Tensor = graph.module.eval()(codes)
    return images.permute(0, 3, 1, 2)


@pytest.mark.parametrize("update", ["gradient", "ema"])
@pytest.mark.parametrize("reconstruction", ["mse", "l1"])
def test_the_loss_is_that_of_equation_3(update: str, reconstruction: str) -> None:
    model = tiny.model(variance=0.04, update=update, reconstruction=reconstruction, commitment=0.7).eval()
    images = tiny.images(4)
    target = to_unit(images)
    z = model.encoder(target)
    vectors = model.quantizer.codebook[model.quantizer.encode(z)].permute(0, 3, 1, 2)
    # Pixels in [0, 1] against the data's variance, or its square root for the L1 loss.
    shown, wanted = (model.decoder(vectors) + 1) / 2, (target + 1) / 2
    expected = F.mse_loss(shown, wanted) / 0.04 if reconstruction == "mse" else F.l1_loss(shown, wanted) / 0.2
    distance = F.mse_loss(z, vectors)
    expected = expected + (distance if update == "gradient" else 0) + 0.7 * distance
    torch.testing.assert_close(model(images).loss, expected)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"update": "ema"}, {"loss", "mse", "commitment_loss"}),
        ({"update": "gradient"}, {"loss", "mse", "commitment_loss", "codebook_loss"}),
        ({"reconstruction": "l1"}, {"loss", "l1", "commitment_loss"}),
    ],
)
def test_the_metrics_are_the_parts_of_the_loss(changes: dict[str, Any], names: set[str]) -> None:
    step = tiny.model(**changes)(tiny.images(2))
    assert step.metrics.keys() == names
    assert not any(value.requires_grad for value in step.metrics.values())
    assert step.counts is not None
    assert step.counts.sum() == 2 * 7 * 7


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_it_learns_a_batch_by_heart(update: str) -> None:
    model = tiny.model(update=update, codebook_size=64)
    images = tiny.images(4, height=8, width=8) // 128 * 255
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        step = model(images)
        optimizer.zero_grad()
        step.loss.backward()
        optimizer.step()
        losses.append(float(step.metrics["mse"]))
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("size", [(28, 28), (28, 36), (4, 4)])
def test_reconstructions_are_images_of_the_same_size(size: tuple[int, int]) -> None:
    images = tiny.images(3, height=size[0], width=size[1])
    found = tiny.model().eval().reconstruct(images)
    assert (found.shape, found.dtype) == (images.shape, torch.uint8)


def test_encoding_and_decoding_is_reconstructing() -> None:
    model, images = tiny.model().eval(), tiny.images(5)
    decoded = decode(model, encode(model, images))
    # Straight through, z + (e - z) is e but for its last bit, and a pixel near x.5 may round either way.
    assert (decoded.int() - model.reconstruct(images).int()).abs().max() <= 1


def test_the_graphs_take_and_give_what_the_specs_say() -> None:
    model = tiny.model(RGB_16x24, stride=8)
    image, codes = model.image_spec(), model.codes_spec()
    assert (image.channels, image.height, image.width, image.multiple_of) == (3, 16, 24, 8)
    assert (codes.dtype, codes.shape, codes.stride) == ("int32", (2, 3), 8)
    assert (codes.codebook_size, codes.codebook_dim) == (16, 4)
    found = encode(model, tiny.images(2, 3, 16, 24))
    assert (found.dtype, found.shape) == (torch.int32, (2, 2, 3))
    assert decode(model, found).shape == (2, 3, 16, 24)


def test_images_that_the_stride_does_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="28x28 pixels are no multiple of the stride 8"):
        tiny.model(stride=8)


def test_the_codebook_has_the_name_of_its_tensor() -> None:
    model = tiny.model()
    name, values = model.codebook()
    assert torch.equal(model.state_dict()[name], values)


def test_a_new_model_starts_with_codes_that_are_used() -> None:
    images = [tiny.images(64, seed=seed) for seed in range(3)]
    started, plain = tiny.model(), tiny.model(kmeans_start=False)
    for model in (started, plain):
        model.begin(images)
        model.eval()
    assert plain.quantizer.codebook.equal(tiny.model().quantizer.codebook)
    assert started(images[0]).metrics["commitment_loss"] < plain(images[0]).metrics["commitment_loss"] / 2
    counts = started(images[0]).counts
    assert counts is not None
    assert (counts > 0).all()


def test_the_gap_is_that_between_the_two_distances() -> None:
    model, images = tiny.model().eval(), tiny.images(3)
    codes = encode(model, images)
    others = (codes + 1) % 16
    z = model.encoder(to_unit(images)).permute(0, 2, 3, 1).double()
    codebook = model.quantizer.codebook.double()
    own, other = codebook[codes.long()], codebook[others.long()]
    gap = (z - other).square().sum(-1) - (z - own).square().sum(-1)
    expected = gap / (z.square().sum(-1) + other.square().sum(-1))
    found = model.code_gap(images.permute(0, 2, 3, 1), others)
    torch.testing.assert_close(found, expected.detach())
    assert found.max() > FLIP_GAP


def test_there_is_no_gap_for_its_own_codes_and_for_ties() -> None:
    model, images = tiny.model().eval(), tiny.images(3)
    with torch.no_grad():
        model.quantizer.codebook[8:] = model.quantizer.codebook[:8]
    nhwc, codes = images.permute(0, 2, 3, 1), encode(model, images)
    assert codes.max() < 8
    assert model.code_gap(nhwc, codes).max() == 0
    assert model.code_gap(nhwc, codes + 8).max() == 0
