"""What an import of a family that is not of diffusers refuses, and the pickles of training that it reads."""

import argparse
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.fixtures.original_tokenizers.cases import CASES, Case, shrink_titok
from tests.unit.trainer.pretrained.refusals import Trap, refusal
from trainer.pretrained.checkpoint_files import CheckpointFiles
from trainer.pretrained.families import recognised

PICKLED = tuple(name for name, case in CASES.items() if not case.file.endswith(".safetensors"))


@pytest.fixture(autouse=True)
def _small_titok(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink_titok(monkeypatch)


@pytest.mark.parametrize(
    ("name", "old", "new", "named"),
    [
        ("taming", "ch: 32", "ch: 40", "ddconfig: ch is 40, no multiple of the 32 groups of a norm"),
        ("taming", "[1, 2]", "[2, 2]", "ddconfig: ch_mult begins with 2: only 1 is known"),
        ("taming", "out_ch: 3", "out_ch: 1", "ddconfig: in_channels is 3, out_ch is 1"),
        ("taming", "double_z: false", "double_z: true", "ddconfig.double_z is True"),
        ("taming", "dropout", "drop_out", "unknown field 'ddconfig.drop_out'"),
        ("taming", "n_embed: 128", "n_embed: 128\n    remap: used.npy", "remap is 'used.npy'"),
        ("taming", "n_embed: 128", "n_embed: 128\n    kl_weight: 1.0e-8", "names no class that is known"),
        ("ibq", "beta: 0.25", "bta: 0.25", "unknown field 'bta'"),
        (
            "llamagen",
            "decoder_ch_mult: [1, 1]",
            "decoder_ch_mult: [1, 2]",
            "is [1, 1], decoder_ch_mult is [1, 2]",
        ),
        ("magvit", "n_embed: 1024", "n_embed: 4096", "z_channels 10 asks for 1024 and 10"),
        ("titok", "crop_size: 48", "crop_size: 50", "crop_size is 50, no multiple of patches of 16 pixels"),
        (
            "titok",
            "finetune_decoder: false, is_legacy: false",
            "finetune_decoder: false",
            "in another checkpoint",
        ),
        ("titok", "use_l2_norm: false, ", "", "codebook_size and use_l2_norm are missing"),
        (
            "titok",
            "token_size: 6",
            "token_size: 6, text_context_length: 77",
            "unknown field 'text_context_len",
        ),
        ("titok", "size: base", "size: huge", "vit_dec_model_size is 'huge'"),
    ],
)
def test_a_config_that_is_not_understood(tmp_path: Path, name: str, old: str, new: str, named: str) -> None:
    case = CASES[name]
    assert old in case.config
    file = case._replace(config=case.config.replace(old, new)).save(tmp_path, {"a": torch.zeros(1)})
    assert named in refusal(file)


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        pytest.param("taming", "decoder.up.1.upsample.conv.weight", marks=pytest.mark.slow),
        pytest.param("ibq", "quantize.embedding.weight", marks=pytest.mark.slow),
        pytest.param("llamagen", "decoder.conv_blocks.0.attn.2.proj_out.bias", marks=pytest.mark.slow),
        ("magvit", "decoder.adaptive.1.gamma.weight"),
        ("titok-legacy", "pixel_decoder.up.1.upsample_conv.bias"),
    ],
)
def test_tensors_that_do_not_fit_the_config(tmp_path: Path, name: str, lost: str) -> None:
    case, state = CASES[name], CASES[name].model().state_dict()
    kept = {key: tensor for key, tensor in state.items() if key != lost}
    assert f"lacks {lost}, which its config asks for" in refusal(case.save(tmp_path / "less", kept))
    more = {**state, "encoder.extra.weight": torch.zeros(1)}
    assert "has encoder.extra.weight" in refusal(case.save(tmp_path / "more", more))
    cut = {**state, lost: state[lost][:1]}
    # With moving averages it is these that are named, without their dots.
    assert f"{lost.replace('.', '')} has the shape" in refusal(case.save(tmp_path / "cut", cut)).replace(
        ".", ""
    )


@pytest.mark.parametrize("name", PICKLED)
def test_a_pickle_with_code_is_not_run(tmp_path: Path, name: str) -> None:
    sprung = tmp_path / "sprung"

    def published(state: dict[str, Tensor]) -> dict[str, Any]:
        return {**state, "optimizer": Trap(sprung)}

    file = CASES[name]._replace(published=published).save(tmp_path, {"a": torch.zeros(1)})
    assert "holds more than tensors and plain values" in refusal(file)
    assert not sprung.exists()


def test_classes_that_runs_name_are_read_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs of the first Lightning have the class of a callback as a key, and others their arguments."""
    module = ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    callback = type("ModelCheckpoint", (), {"__module__": module.__name__})
    monkeypatch.setattr(module, "ModelCheckpoint", callback, raising=False)
    state = {"a": torch.arange(3)}
    content = {"callbacks": {callback: {"best": 1.0}}, "args": argparse.Namespace(lr=1), "state_dict": state}
    file = tmp_path / "last.ckpt"
    torch.save(content, file)
    monkeypatch.undo()
    found = CheckpointFiles.find(file).read_tensors(("state_dict",))
    assert list(found) == ["a"]
    assert module.__name__ not in sys.modules


def test_a_llamagen_without_a_config_is_a_vq_16() -> None:
    name, row = recognised({}, "llamagen", "vq_ds16_c2i.pt")
    config = row.config_class().of({}, "vq_ds16_c2i.pt").model_dump()
    assert name == "llamagen"
    assert (config["codebook_size"], config["codebook_embed_dim"]) == (16_384, 8)
    assert config["encoder_ch_mult"] == config["decoder_ch_mult"] == (1, 1, 2, 2, 4)


def test_the_config_is_the_only_file_in_yaml(tmp_path: Path) -> None:
    case: Case = CASES["taming"]
    file = case.save(tmp_path, {"a": torch.zeros(1)})
    assert CheckpointFiles.find(tmp_path).config == tmp_path / "project.yaml"
    (tmp_path / "lightning.yaml").touch()
    assert CheckpointFiles.find(file).config is None
    (tmp_path / "config.yaml").touch()
    assert CheckpointFiles.find(file).config == tmp_path / "config.yaml"
