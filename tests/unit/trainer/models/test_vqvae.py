from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from service.contract.manifest import ImageSpec
from tests.fixtures import tiny_models
from trainer.export.onnx_export import CODEBOOK_FILE, write_graphs
from trainer.export.parity import FLIP_GAP
from trainer.models.base import to_pixels, to_unit
from trainer.models.vqvae import VQVAE

RGB_16x24 = ImageSpec(channels=3, height=16, width=24)
FSQ: dict[str, Any] = {"fsq_levels": (4, 3, 5), "codebook_size": 60, "codebook_dim": 3}
ON_SPHERE: dict[str, Any] = {"normalise_codes": True, "codebook_size": 60}
QUANTIZERS: dict[str, dict[str, Any]] = {
    "plain": {"codebook_size": 60},
    "on the sphere": ON_SPHERE,
    "on the sphere by gradient": ON_SPHERE | {"update": "gradient"},
    "fsq": FSQ,
}


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
    model = tiny_models.model(
        variance=0.04, update=update, reconstruction=reconstruction, commitment=0.7
    ).eval()
    images = tiny_models.images(4)
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
        (FSQ, {"loss", "mse"}),
    ],
)
def test_the_metrics_are_the_parts_of_the_loss(changes: dict[str, Any], names: set[str]) -> None:
    step = tiny_models.model(**changes)(tiny_models.images(2))
    assert step.metrics.keys() == names
    assert not any(value.requires_grad for value in step.metrics.values())
    assert step.counts is not None
    assert step.counts.sum() == 2 * 7 * 7


def test_with_level_grids_the_codes_are_a_sequence_of_images_of_one_size() -> None:
    model = tiny_models.model(level_grids=(1, 3, 7), prior_epochs=1)
    spec, images = model.codes_spec(), tiny_models.images(2)
    assert (spec.shape, spec.stride, spec.level_grids) == ((59,), None, (1, 3, 7))
    assert model.image_spec().multiple_of is None
    assert all(graph.tiling is None and graph.untiled for graph in model.graphs())
    step = model(images)
    assert step.counts is not None
    assert step.counts.sum() == 2 * 59
    codes = encode(model.eval(), images)
    assert codes.shape == (2, 59)
    assert torch.equal(decode(model, codes), model.reconstruct(images))
    prior = model.second_stage(classes=2)
    assert prior is not None
    assert prior(prior.inputs(images), torch.tensor([0, 1])).loss.isfinite()


@pytest.mark.parametrize(
    ("changes", "unhelpful"),
    [
        ({}, {"--update", "--kmeans-start"}),
        ({"update": "simvq"}, {"--kmeans-start", "--restart-below"}),
        ({"levels": 2}, {"--update", "--kmeans-start", "--normalise-codes", "--fsq-levels"}),
        (FSQ, {"--update", "--kmeans-start", "--restart-below", "--codebook-dim", "--normalise-codes"}),
    ],
)
def test_against_a_collapse_it_names_what_the_run_takes_and_has_not_yet(
    changes: dict[str, Any], unhelpful: set[str]
) -> None:
    warning = tiny_models.model(**changes).warning({"epoch": 2, "usage": 0.01}) or ""
    assert "1.0% of its codes are in use. What helps: " in warning
    assert "a lower --lr" in warning
    assert not [flag for flag in unhelpful if flag in warning]


def test_level_grids_of_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="level_grids 1,3 should end with the grid of the images"):
        tiny_models.model(level_grids=(1, 3))


def test_with_fsq_the_loss_is_the_reconstruction_alone() -> None:
    model = tiny_models.model(variance=0.04, **FSQ).eval()
    images = tiny_models.images(4)
    step = model(images)
    torch.testing.assert_close(step.loss, step.metrics["mse"] / 0.04)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"update": "gradient"},
        {"update": "ema"},
        {"update": "gradient", "normalise_codes": True},
        {"update": "ema", "normalise_codes": True},
        {"update": "ema", "rotation_trick": True},
        {"fsq_levels": (4, 4, 4), "codebook_dim": 3},
    ],
    ids=str,
)
def test_it_learns_a_batch_by_heart(changes: dict[str, Any]) -> None:
    model = tiny_models.model(codebook_size=64, **changes)
    images = tiny_models.images(4, height=8, width=8) // 128 * 255
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        step = model(images)
        optimizer.zero_grad()
        step.loss.backward()
        optimizer.step()
        losses.append(float(step.metrics["mse"]))
    assert losses[-1] < losses[0] / 2


def encoder_inputs(model: VQVAE, images: Tensor) -> Tensor:
    """The images that the encoder is given."""
    given: list[Tensor] = []
    with model.encoder.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0])):
        model(images)
    return to_pixels(given[0])


def test_about_half_of_the_images_are_mirrored_in_training() -> None:
    images = tiny_models.images(64, height=8, width=8)
    model = tiny_models.model(flips=True)
    shown = encoder_inputs(model, images)
    kept = (shown == images).flatten(1).all(1)
    mirrored = (shown == images.flip(3)).flatten(1).all(1)
    assert (kept ^ mirrored).all()
    assert 16 < kept.sum() < 48
    assert not torch.equal(encoder_inputs(model, images), shown)
    assert torch.equal(encoder_inputs(model.eval(), images), images)


def test_the_error_is_that_of_the_images_as_they_were_mirrored() -> None:
    model = tiny_models.model(flips=True, kmeans_start=False, restart_below=0.0)
    image = tiny_models.images(1, height=8, width=8)
    found = {float(model(image.clone()).metrics["mse"]) for _ in range(20)}
    assert len(found) > 1
    model.quantizer.eval()
    plain = tiny_models.model(kmeans_start=False, restart_below=0.0)
    plain.load_state_dict(model.state_dict())
    plain.quantizer.eval()
    expected = {float(plain(each).metrics["mse"]) for each in (image, image.flip(3))}
    assert {float(model(image).metrics["mse"]) for _ in range(20)} == expected


def test_without_flips_the_images_stay() -> None:
    images = tiny_models.images(64, height=8, width=8)
    assert torch.equal(encoder_inputs(tiny_models.model(), images), images)


@pytest.mark.parametrize("size", [(28, 28), (28, 36), (4, 4)])
def test_reconstructions_are_images_of_the_same_size(size: tuple[int, int]) -> None:
    images = tiny_models.images(3, height=size[0], width=size[1])
    found = tiny_models.model().eval().reconstruct(images)
    assert (found.shape, found.dtype) == (images.shape, torch.uint8)


@pytest.mark.parametrize("changes", QUANTIZERS.values(), ids=QUANTIZERS)
def test_encoding_and_decoding_is_reconstructing(changes: dict[str, Any]) -> None:
    model, images = tiny_models.model(**changes).eval(), tiny_models.images(5)
    assert torch.equal(decode(model, encode(model, images)), model.reconstruct(images))


def test_the_graphs_take_and_give_what_the_specs_say() -> None:
    model = tiny_models.model(RGB_16x24, stride=8)
    image, codes = model.image_spec(), model.codes_spec()
    assert (image.channels, image.height, image.width, image.multiple_of) == (3, 16, 24, 8)
    assert (codes.dtype, codes.shape, codes.stride) == ("int32", (2, 3), 8)
    assert (codes.codebook_size, codes.codebook_dim) == (16, 4)
    found = encode(model, tiny_models.images(2, 3, 16, 24))
    assert (found.dtype, found.shape) == (torch.int32, (2, 2, 3))
    assert decode(model, found).shape == (2, 3, 16, 24)


def test_images_that_the_stride_does_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="28x28 pixels are no multiple of the stride 8"):
        tiny_models.model(stride=8)


@pytest.mark.parametrize("changes", QUANTIZERS.values(), ids=QUANTIZERS)
def test_the_decoder_holds_the_codebook_as_it_is(changes: dict[str, Any]) -> None:
    model = tiny_models.model(**changes)
    values = model.codebook()
    assert values.shape == (60, model.config.codebook_dim)
    (decoder,) = (graph.module for graph in model.graphs() if graph.operation == "decode")
    held = [*decoder.buffers(), *decoder.parameters()]
    assert any(torch.equal(tensor, values) for tensor in held)


def sizes(graph: onnx.GraphProto) -> dict[str, list[int]]:
    return {tensor.name: list(tensor.dims) for tensor in graph.initializer}


def from_codebook(graph: onnx.GraphProto) -> list[list[int]]:
    """The shapes of the tensors whose values are in the codebook's file."""
    return [
        list(tensor.dims)
        for tensor in graph.initializer
        if any(entry.value == CODEBOOK_FILE for entry in tensor.external_data)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("case", ["on the sphere by gradient", "fsq"])
def test_the_graphs_encode_and_decode_as_torch_does(tmp_path: Path, case: str) -> None:
    model, images = tiny_models.model(**QUANTIZERS[case]).eval(), tiny_models.images(20)
    codebook = model.codebook()
    write_graphs(model.graphs(), tmp_path, codebook)
    sessions, protos = {}, {}
    for graph in model.graphs():
        protos[graph.operation] = onnx.load(tmp_path / graph.file, load_external_data=False).graph
        sessions[graph.operation] = onnxruntime.InferenceSession(
            str(tmp_path / graph.file), providers=["CPUExecutionProvider"]
        )
    nhwc = images.permute(0, 2, 3, 1).contiguous()
    (codes,) = sessions["encode"].run(None, {"images": nhwc.numpy()})
    assert (codes.dtype, codes.shape) == (np.int32, (20, 7, 7))
    with torch.no_grad():
        differs = torch.from_numpy(codes) != encode(model, images)
        assert differs.float().mean() < 0.01
        assert (model.code_gap(nhwc, torch.from_numpy(codes))[differs] < FLIP_GAP).all()
        expected = decode(model, torch.from_numpy(codes)).permute(0, 2, 3, 1).numpy()
    (decoded,) = sessions["decode"].run(None, {"codes": codes})
    assert np.abs(decoded.astype(int) - expected.astype(int)).max() <= 1
    # One codebook, taken as it is, and rounding needs none.
    assert from_codebook(protos["decode"]) == [[60, model.config.codebook_dim]]
    assert [shape for shape in sizes(protos["decode"]).values() if 60 in shape] == [[60, codebook.shape[1]]]
    assert not {node.op_type for node in protos["decode"].node} & {"ReduceL2", "Sqrt", "Div"}
    if case == "fsq":
        assert [shape for shape in sizes(protos["encode"]).values() if 60 in shape] == []
        assert not {node.op_type for node in protos["encode"].node} & {"Gemm", "MatMul", "ArgMin"}
    else:
        assert from_codebook(protos["encode"]) == [[60, 4]]
        assert [node.op_type for node in protos["encode"].node].count("ArgMin") == 1


def test_a_new_model_starts_with_codes_that_are_used() -> None:
    images = [tiny_models.images(64, seed=seed) for seed in range(3)]
    started, plain = tiny_models.model(), tiny_models.model(kmeans_start=False)
    for model in (started, plain):
        model.begin(images)
        model.eval()
    assert plain.quantizer.codebook.equal(tiny_models.model().quantizer.codebook)
    rows = 64 * 7 * 7
    assert started.quantizer.state_dict()["uses"].sum() == pytest.approx(rows)
    assert started(images[0]).metrics["commitment_loss"] < plain(images[0]).metrics["commitment_loss"] / 2
    counts = started(images[0]).counts
    assert counts is not None
    assert (counts > 0).all()


@pytest.mark.parametrize("changes", [{"update": "simvq"}, {"fsq_levels": (4, 4), "codebook_dim": 2}])
def test_a_codebook_that_stays_as_it_is_begins_without_images(changes: dict[str, Any]) -> None:
    model = tiny_models.model(**changes)
    model.begin([])
    with pytest.raises(IndexError):
        tiny_models.model().begin([])


def test_trained_on_crops_the_averages_start_as_of_a_batch_of_crops() -> None:
    model = tiny_models.model(crop=8)
    model.begin([tiny_models.images(64, seed=seed) for seed in range(3)])
    assert model.quantizer.state_dict()["uses"].sum() == pytest.approx(64 * 2 * 2)


def test_fsq_has_nothing_to_start() -> None:
    model = tiny_models.model(**FSQ)

    def no_images() -> Iterator[Tensor]:
        raise AssertionError("nothing to look at")
        yield

    model.begin(no_images())


def test_a_checkpoint_of_the_first_version_fits() -> None:
    """A finished run can be resumed, for example to train a further stage."""
    names = {
        name for name in tiny_models.model().state_dict() if not name.startswith(("encoder.", "decoder."))
    }
    assert names == {
        "spread",
        *(f"quantizer.{name}" for name in ("codebook", "steps", "uses", "sums")),
    }


def test_the_gap_is_that_between_the_two_distances() -> None:
    model, images = tiny_models.model().eval(), tiny_models.images(3)
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
    model, images = tiny_models.model().eval(), tiny_models.images(3)
    with torch.no_grad():
        model.quantizer.codebook[8:] = model.quantizer.codebook[:8]
    nhwc, codes = images.permute(0, 2, 3, 1), encode(model, images)
    assert codes.max() < 8
    assert model.code_gap(nhwc, codes).max() == 0
    assert model.code_gap(nhwc, codes + 8).max() == 0
