from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.fixtures import pretrained_checkpoints
from tests.fixtures.pretrained_checkpoints import SMALL, WEIGHTS
from trainer.pretrained.checkpoint_files import CheckpointFiles
from trainer.pretrained.drawn_pictures import drawn_pictures
from trainer.pretrained.families import FAMILIES
from trainer.pretrained.importer import load
from trainer.pretrained.pretrained_model import PretrainedModel

FAMILY = FAMILIES["autoencoder-kl"]
Tensors = dict[str, Tensor]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return pretrained_checkpoints.write(tmp_path / "checkpoint")


def loaded(path: Path) -> PretrainedModel:
    files = CheckpointFiles.find(path)
    return load(files, FAMILY, FAMILY.config_class().of(files.read_config(), "here"))[0]


def latents(model: PretrainedModel) -> Tensor:
    images = drawn_pictures(model.image_spec(), 2).test.take(torch.arange(2)).images
    with torch.no_grad():
        return model.architecture.encode(images / 127.5 - 1)


def in_older_names(tensors: Tensors) -> Tensors:
    """As diffusers wrote them before its release 0.17, and attention as 1x1 convolutions, as VQGAN has it."""
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    found: Tensors = {}
    for name, tensor in tensors.items():
        for new, old in older.items():
            if f".{new}." in name:
                name = name.replace(new, old)
                tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        found[name] = tensor
    return found


@pytest.mark.parametrize(
    ("change", "tolerance"),
    [
        (dict, 0.0),
        (in_older_names, 0.0),
        (lambda tensors: {name: tensor.half() for name, tensor in tensors.items()}, 1e-2),
        (lambda tensors: {name: tensor.bfloat16() for name, tensor in tensors.items()}, 1e-1),
    ],
)
def test_a_checkpoint_in_other_forms_is_the_same_model(
    checkpoint: Path, change: Callable[[Tensors], Tensors], tolerance: float
) -> None:
    expected = latents(loaded(checkpoint))
    save_file(
        {name: tensor.contiguous() for name, tensor in change(pretrained_checkpoints.tensors()).items()},
        checkpoint / WEIGHTS,
    )
    model = loaded(checkpoint)
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
    assert not any(tensor.requires_grad for tensor in model.parameters())
    torch.testing.assert_close(latents(model), expected, rtol=0, atol=tolerance)


def test_a_pickle_of_tensors_alone_is_read(checkpoint: Path) -> None:
    expected = latents(loaded(checkpoint))
    (checkpoint / WEIGHTS).unlink()
    torch.save(pretrained_checkpoints.tensors(), checkpoint / "model.bin")
    torch.testing.assert_close(latents(loaded(checkpoint)), expected, rtol=0, atol=0)


def test_safetensors_come_before_a_pickle_and_whole_before_half(checkpoint: Path) -> None:
    for name in ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.bin"):
        (checkpoint / name).touch()
    assert CheckpointFiles.find(checkpoint).weights.name == WEIGHTS
    assert CheckpointFiles.find(checkpoint / WEIGHTS).config == checkpoint / "config.json"


def test_drawn_pictures_are_the_same_for_a_seed(checkpoint: Path) -> None:
    spec = loaded(checkpoint).image_spec()
    assert (spec.height, spec.multiple_of) == (SMALL["sample_size"], 2)
    one, again, other = (
        drawn_pictures(spec, 2, seed).test.take(torch.arange(2)).images for seed in (0, 0, 1)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])
    grey = drawn_pictures(spec.model_copy(update={"channels": 1}), 1).test.take(torch.arange(1)).images
    assert grey.shape == (1, 1, 16, 16)
