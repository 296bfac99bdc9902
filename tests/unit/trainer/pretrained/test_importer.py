"""What an import refuses, each in one line that names what is wrong, and nothing is published."""

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console
from safetensors.torch import load_file, save_file

from tests.fixtures import pretrained_checkpoints
from tests.fixtures.pretrained_checkpoints import CONFIG, SMALL, WEIGHTS
from tests.unit.trainer.pretrained.refusals import Trap, refusal
from trainer.errors import TrainerError
from trainer.pretrained.command import import_model
from trainer.pretrained.importer import import_checkpoint, published_name


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return pretrained_checkpoints.write(tmp_path / "checkpoint")


def changed(folder: Path, **values: Any) -> Path:
    """The checkpoint with other values in its config; None leaves one out."""
    config = {key: value for key, value in {**SMALL, **values}.items() if value is not None}
    (folder / CONFIG).write_text(json.dumps(config))
    return folder


def with_tensors(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)
    return folder


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"latent_dims": 3}, "unknown field 'latent_dims'"),
        ({"layer_per_block": 1}, "unknown field 'layer_per_block'. Did you mean 'layers_per_block'?"),
        ({"act_fn": "mish"}, "act_fn is 'mish'"),
        ({"latents_mean": [0.0, 1.0]}, "latents_mean is [0.0, 1.0]"),
        ({"block_out_channels": [8, 8, 8]}, "2 down_block_types and 2 up_block_types for 3"),
        ({"norm_num_groups": 3}, "block_out_channels 8 is no multiple of norm_num_groups"),
        ({"_class_name": "AutoencoderKLWan"}, "names the class 'AutoencoderKLWan': say its family"),
        ({"_class_name": None}, "names no class that is known"),
    ],
)
def test_a_config_that_is_not_understood(checkpoint: Path, values: dict[str, Any], named: str) -> None:
    message = refusal(changed(checkpoint, **values))
    assert named in message
    assert CONFIG in message


def test_another_family(checkpoint: Path) -> None:
    assert "is of the family autoencoder-kl, not of vq-model" in refusal(checkpoint, family="vq-model")
    assert "Did you mean 'autoencoder-kl'?" in refusal(checkpoint, family="autoencoder_kl")


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"latent_channels": 4}, "has the shape [4, 8, 3, 3], and its config asks for [8, 8, 3, 3]"),
        ({"use_quant_conv": False}, "has quant_conv.bias, quant_conv.weight, for which its config has no"),
        ({"layers_per_block": 2}, "lacks encoder.down_blocks.0.resnets.1.norm1.weight"),
    ],
)
def test_tensors_that_do_not_fit_the_config(checkpoint: Path, values: dict[str, Any], named: str) -> None:
    message = refusal(changed(checkpoint, **values))
    assert named in message
    assert WEIGHTS in message


def test_tensors_that_are_not_finite(checkpoint: Path) -> None:
    path = with_tensors(checkpoint, lambda tensors: tensors["quant_conv.bias"].fill_(float("nan")))
    assert "quant_conv.bias has values that are not finite" in refusal(path)


def test_a_file_that_is_cut_off(checkpoint: Path) -> None:
    whole = (checkpoint / WEIGHTS).read_bytes()
    (checkpoint / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    assert f"{WEIGHTS} is damaged or no safetensors file" in refusal(checkpoint)


def test_a_pickle_that_would_run_code(checkpoint: Path, tmp_path: Path) -> None:
    sprung, file = tmp_path / "sprung", checkpoint / "model.ckpt"
    (checkpoint / WEIGHTS).unlink()
    torch.save({"state_dict": Trap(sprung)}, file)
    assert "holds more than tensors and plain values" in refusal(checkpoint)
    file.write_bytes(pickle.dumps(Trap(sprung)))
    assert "model.ckpt" in refusal(checkpoint)
    assert not sprung.exists()


def test_a_path_that_is_no_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "nothing")
    assert "its name ends in none of .safetensors, .ckpt" in refusal(checkpoint / CONFIG)
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "model_index.json").touch()
    assert f"give its autoencoder, {tmp_path / 'pipeline' / 'vae'}" in refusal(tmp_path / "pipeline")
    (checkpoint / "other.safetensors").touch()
    assert f"several files of tensors, {WEIGHTS}, other.safetensors" in refusal(checkpoint)
    (checkpoint / CONFIG).write_text("[")
    assert "cannot be read" in refusal(checkpoint / WEIGHTS)


def test_an_image_size_that_the_network_does_not_take(checkpoint: Path) -> None:
    assert "--image-size 33: allowed are multiples of 2" in refusal(checkpoint, image_size=33)


def test_a_name_that_no_model_can_have(checkpoint: Path) -> None:
    assert "--name is '../Mine': it should match the pattern" in refusal(checkpoint, name="../Mine")


def test_a_name_that_is_taken(checkpoint: Path) -> None:
    target = checkpoint.parent / "taken" / "checkpoint"
    target.mkdir(parents=True)
    (target / "file").touch()
    with pytest.raises(TrainerError, match="choose another name with --name, or replace it with --replace"):
        import_checkpoint(checkpoint, Console(file=io.StringIO()), export_to=target.parent)


def test_the_command_ends_with_the_message(checkpoint: Path, tmp_path: Path) -> None:
    changed(checkpoint, latent_dims=3)
    result = CliRunner().invoke(import_model, [str(checkpoint), "--export-to", str(tmp_path / "exported")])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def test_the_name_follows_from_the_path(tmp_path: Path) -> None:
    assert published_name(tmp_path / "SD VAE_ft-MSE") == "sd-vae_ft-mse"
    (tmp_path / "Model.v1.safetensors").touch()
    assert published_name(tmp_path / "Model.v1.safetensors") == "model.v1"
