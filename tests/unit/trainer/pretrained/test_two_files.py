"""A checkpoint of an encoder and a decoder in two files, as the author of TAESD publishes it."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from tests.fixtures import pretrained_checkpoints
from tests.unit.trainer.pretrained.pictures import pictures
from tests.unit.trainer.pretrained.refusals import refusal
from trainer.config.imported import SHAPES
from trainer.errors import ConfigError
from trainer.pretrained.architectures.base import Architecture
from trainer.pretrained.checkpoint_files import CheckpointFiles
from trainer.pretrained.families import recognised
from trainer.pretrained.importer import load, published_name

WIDTH, LATENTS, GROUPS = 8, 3, 4
Layers = dict[int, dict[str, tuple[int, ...]]]


def convolution(outputs: int, inputs: int, *, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return {"weight": (outputs, inputs, 3, 3), **({"bias": (outputs,)} if bias else {})}


def block(*, pooled: bool) -> dict[str, tuple[int, ...]]:
    inner = GROUPS * WIDTH
    found = {
        f"conv.{number}.{name}": shape
        for number in (0, 2, 4)
        for name, shape in convolution(WIDTH, WIDTH).items()
    }
    pool = {
        "pool.0.weight": (inner, WIDTH, 1, 1),
        "pool.1.weight": (inner,),
        "pool.1.bias": (inner,),
        "pool.3.weight": (WIDTH, inner, 1, 1),
    }
    return {**found, **(pool if pooled else {})}


def layers(*, pooled: bool) -> tuple[Layers, Layers]:
    """The shapes of the tensors of an encoder and a decoder of two stages, by the number of their layer."""
    first, between = convolution(WIDTH, 3), convolution(WIDTH, WIDTH, bias=False)
    plain, lowest = block(pooled=False), block(pooled=pooled)
    encoder = {0: first, 1: plain, 2: between, 3: lowest, 4: lowest, 5: convolution(LATENTS, WIDTH)}
    # The clamp 0, a ReLU 2 and the upsampling 4 have no tensors.
    decoder = {1: convolution(WIDTH, LATENTS), 3: lowest, 5: between, 6: plain, 7: convolution(3, WIDTH)}
    return encoder, decoder


def write(folder: Path, *, pooled: bool = True, name: str = "tiny") -> tuple[dict[str, Tensor], ...]:
    """Both files, in half precision, and their tensors."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    parts = tuple(
        {
            f"{number}.{tensor}": torch.randn(shape).half() * 0.2
            for number, shapes in part.items()
            for tensor, shape in shapes.items()
        }
        for part in layers(pooled=pooled)
    )
    for side, tensors in zip(("encoder", "decoder"), parts, strict=True):
        torch.save(tensors, folder / f"{name}_{side}.pth")
    return tuple({key: tensor.float() for key, tensor in part.items()} for part in parts)


def applied(x: Tensor, tensors: dict[str, Tensor], number: int, stride: int = 1) -> Tensor:
    """Layer ``number`` of the original: a convolution or a block."""
    given = {key.partition(".")[2]: value for key, value in tensors.items() if key.startswith(f"{number}.")}
    if "weight" in given:
        return F.conv2d(x, given["weight"], given.get("bias"), stride=stride, padding=1)
    if "pool.0.weight" in given:
        wide = F.conv2d(x, given["pool.0.weight"])
        wide = F.group_norm(wide, GROUPS, given["pool.1.weight"], given["pool.1.bias"]).relu()
        x = x + F.conv2d(wide, given["pool.3.weight"])
    y = x
    for inner in (0, 2, 4):
        y = F.conv2d(y, given[f"conv.{inner}.weight"], given[f"conv.{inner}.bias"], padding=1)
        y = y if inner == 4 else y.relu()
    return (x + y).relu()


def loaded(path: Path) -> Architecture:
    files = CheckpointFiles.find(path)
    config = files.read_config()
    name, family = recognised(config, None, files.source)
    assert name == "taesd"
    return load(files, family, family.config_class().of(config, files.source))[0].architecture


@pytest.mark.parametrize("pooled", [False, True])
@torch.no_grad()
def test_the_network_agrees_with_the_original(tmp_path: Path, *, pooled: bool) -> None:
    encoder, decoder = write(tmp_path, pooled=pooled)
    net = loaded(tmp_path)
    assert (net.tilings is None) == pooled
    images = torch.from_numpy(pictures(16, 24, 2)).permute(0, 3, 1, 2) / 255
    z = images
    for number in range(6):
        z = applied(z, encoder, number, stride=2 if number == 2 else 1)
    torch.testing.assert_close(net.encode(images * 2 - 1), z, rtol=1e-4, atol=1e-5)
    x = applied(3 * (z / 3).tanh(), decoder, 1).relu()
    x = F.interpolate(applied(x, decoder, 3), scale_factor=2)
    for number in (5, 6, 7):
        x = applied(x, decoder, number)
    torch.testing.assert_close(net.decode(z), x * 2 - 1, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("given", ["", "tiny_encoder.pth", "tiny_decoder.pth"])
def test_both_files_are_found_by_either_of_them(given: str, tmp_path: Path) -> None:
    write(tmp_path)
    files = CheckpointFiles.find(tmp_path / given)
    assert files == CheckpointFiles(tmp_path / "tiny_encoder.pth", None, tmp_path / "tiny_decoder.pth")
    assert files.description["decoder_file"] == "tiny_decoder.pth"
    assert len({files.description[key] for key in ("sha256", "decoder_sha256")}) == 2
    assert published_name(tmp_path / "tiny_decoder.pth") == "tiny"


def test_a_whole_checkpoint_beside_them_is_taken(tmp_path: Path) -> None:
    folder = pretrained_checkpoints.write(tmp_path / "whole")
    for side in ("encoder", "decoder"):
        save_file({"0.weight": torch.zeros(1)}, folder / f"tiny_{side}.safetensors")
    files = CheckpointFiles.find(folder)
    assert (files.weights.name, files.decoder) == (pretrained_checkpoints.WEIGHTS, None)
    assert CheckpointFiles.find(folder / "tiny_encoder.safetensors").decoder is not None


def test_the_name_of_an_autoencoder_is_not_that_of_half_of_it(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "autoencoder.safetensors")
    assert CheckpointFiles.find(tmp_path).decoder is None


def test_what_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "pair")
    write(tmp_path / "pair", name="other")
    assert "give one of them" in refusal(tmp_path / "pair")
    encoder = tmp_path / "pair" / "tiny_encoder.pth"
    assert "is of the family taesd, not of titok" in refusal(encoder, family="titok")
    tensors = torch.load(encoder, weights_only=True)
    torch.save({**tensors, "9.bias": torch.zeros(1)}, encoder)
    message = refusal(encoder)
    assert "has encoder.9.bias, for which" in message
    assert "tiny_encoder.pth with tiny_decoder.pth" in message
    (tmp_path / "pair" / "tiny_decoder.pth").unlink()
    assert "is half of a checkpoint: tiny_decoder.pth is not beside it" in refusal(encoder)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"encoder.2.bias": (8,)}, "as that of TAESANA: allowed is TAESD with a stride of 8"),
        ({"decoder.1.weight": ()}, "decoder.1.weight is missing, so it is no TAESD in two files"),
        ({"decoder.9.weight": (8, 8, 3, 3)}, "encoder and decoder have stages of [2, 3]"),
    ],
)
def test_shapes_of_another_network(changes: dict[str, Any], named: str) -> None:
    shapes = {
        f"{side}.{number}.{name}": shape
        for side, part in zip(("encoder", "decoder"), layers(pooled=False), strict=True)
        for number, tensors in part.items()
        for name, shape in tensors.items()
    }
    _, family = recognised({SHAPES: shapes}, None, "here")
    with pytest.raises(ConfigError, match="here: ") as caught:
        family.config_class().of({SHAPES: {**shapes, **changes}}, "here")
    assert named in str(caught.value)
