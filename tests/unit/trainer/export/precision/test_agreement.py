"""Graphs in half precision are published where they agree with float32, and not elsewhere."""

import shutil
from pathlib import Path

import onnxruntime
import pytest
import torch

from service.contract.manifest import Agreement
from service.contract.measures import HalfPrecision
from tests.fixtures.tiny_models import Trained
from trainer.evaluation.exported_model import open_exported
from trainer.export.precision import agreement
from trainer.export.precision.agreement import Halved, in_half, why_not
from trainer.training.progress import in_silence


def halved(trained: Trained, folder: Path, precision: HalfPrecision) -> Halved:
    shutil.copytree(trained.exported.folder, folder)
    exported, _ = open_exported(folder)
    return in_half(exported, folder, precision, trained.dataset, in_silence)


@pytest.mark.slow
def test_a_model_gets_graphs_that_agree(trained: Trained, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    found = halved(trained, folder, "16")
    assert found.refused is None
    assert found.graphs["16"].graphs == {"encode": "encoder.fp16.onnx", "decode": "decoder.fp16.onnx"}
    before = {path.name for path in trained.exported.folder.iterdir()}
    assert {path.name for path in folder.iterdir()} - before == {"encoder.fp16.onnx", "decoder.fp16.onnx"}
    measured = found.graphs["16"].agreement
    assert measured.images == len(trained.dataset.test)
    assert 0.995 <= measured.codes_equal <= 1
    assert abs(measured.psnr_lost) <= 0.02
    assert measured.within_one_level > 0.999
    images = trained.dataset.test.take(torch.arange(8)).images.permute(0, 2, 3, 1).numpy()
    wide, half = (
        onnxruntime.InferenceSession(folder / file, providers=["CPUExecutionProvider"]).run(
            None, {"images": images}
        )[0]
        for file in ("encoder.onnx", "encoder.fp16.onnx")
    )
    assert (wide == half).mean() > 0.98


@pytest.mark.slow
def test_graphs_that_do_not_agree_are_not_published(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, "CODES_EQUAL", 1.1)
    found = halved(trained, tmp_path / "tiny", "bf16")
    assert found.graphs == {}
    assert found.refused is not None
    assert found.refused.startswith("no graphs in precision bf16: on 100 images ")
    assert not list(tmp_path.rglob("*bf16*"))


@pytest.mark.parametrize(
    ("equal", "lost", "published"),
    [(0.995, 0.02, True), (1.0, -0.5, True), (0.9949, 0.0, False), (1.0, 0.021, False)],
)
def test_what_is_allowed(equal: float, lost: float, published: bool) -> None:
    found = Agreement(images=9, codes_equal=equal, psnr_lost=lost, within_one_level=1)
    assert (why_not("16", found) is None) is published
