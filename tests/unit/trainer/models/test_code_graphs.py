"""The graphs of codes with levels; those of others are in ``test_vqvae`` and ``test_vqvae_lookup``."""

from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from service.contract.manifest import CodesSpec, ImageSpec
from trainer.evaluation.exported_model import ExportedGraphs
from trainer.export.onnx_export import write_graphs
from trainer.export.parity import FLIP_GAP, check_halo
from trainer.models.base import to_unit
from trainer.models.code_graphs import Decode, decoding, encoding
from trainer.models.onnx_scan import Chain
from trainer.models.quantizers import LearnedCodebook, MultiScale, Residual, lookup

LEVELS, SIZE, DIM, STRIDE = 3, 7, 3, 4
# The six cells of an image are two blocks.
BLOCK = 3
IMAGE = ImageSpec(channels=1, height=8, width=12, multiple_of=STRIDE)
CODES = CodesSpec(dtype="int32", shape=(2, 3, LEVELS), stride=STRIDE, codebook_size=SIZE, codebook_dim=DIM)


def arg_mins_on_a_gpu(folder: Path) -> int:
    """The arg-mins of an encoder for a GPU, which has no loop and builds no shape of single dimensions."""
    graph = onnx.load(folder / "encoder.cuda.onnx", load_external_data=False).graph
    operators = [node.op_type for node in graph.node]
    assert not {"Scan", "Range"} & set(operators)
    assert operators.count("Shape") <= 1
    return operators.count("ArgMin")


@pytest.mark.slow
def test_the_graphs_give_and_take_the_first_levels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "DISTANCES", BLOCK * SIZE)
    monkeypatch.setattr(lookup, "FEWEST_ROWS", 1)
    torch.manual_seed(0)
    levels = [LearnedCodebook(SIZE, DIM, update="ema", decay=0.9, restart_below=0) for _ in range(LEVELS)]
    quantizer = Residual(levels, dropout=0).eval()
    quantizer.start(torch.randn(200, DIM), batch_rows=1)
    served = quantizer.serving()
    encoder = nn.Conv2d(1, DIM, STRIDE, stride=STRIDE)
    encode = encoding(encoder, served, IMAGE, CODES)
    decode = decoding(served, nn.ConvTranspose2d(DIM, 1, STRIDE, stride=STRIDE), CODES)
    encoders = [encode, *encode.variants.values()]
    assert [each.file for each in encoders] == ["encoder.onnx", "encoder.cuda.onnx"]
    write_graphs([*encoders, decode], tmp_path, served.codebook)
    assert arg_mins_on_a_gpu(tmp_path) == LEVELS
    run = ExportedGraphs(tmp_path, threads=1)
    images = torch.randint(0, 256, (5, 16, 12, 1), generator=torch.Generator().manual_seed(0)).byte()
    z = encoder(to_unit(images.permute(0, 3, 1, 2)))
    for each in encoders:
        (codes,) = run(each, {"images": images, "levels": torch.tensor(LEVELS)})
        assert (codes.dtype, codes.shape) == (torch.int32, (5, 4, 3, LEVELS))
        assert (quantizer.gap(z, codes) < FLIP_GAP).all()
        check_halo(each, 0, CODES, run)
    check_halo(decode, 0, CODES, run)
    assert isinstance(decode.module, Decode)
    for count in range(1, LEVELS + 1):
        first = codes[..., :count].contiguous()
        for each in encoders:
            (given,) = run(each, {"images": images, "levels": torch.tensor(count)})
            assert torch.equal(given, first)
        (expected,) = run(decode, {"codes": first, "levels": torch.tensor(LEVELS)})
        (cut,) = run(decode, {"codes": codes, "levels": torch.tensor(count)})
        assert torch.equal(cut, expected)
        assert (decode.module(first).int() - expected.int()).abs().max() <= 1


@pytest.mark.slow
def test_the_graphs_of_several_scales_give_and_take_the_first_levels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    # As many as are padded in the graph.
    size = 130
    grids, ends = (1, 2, 3), (1, 5, 14)
    shared = LearnedCodebook(size, DIM, update="ema", decay=0.9, restart_below=0)
    quantizer = MultiScale(grids, shared, dropout=0).eval()
    quantizer.start(torch.randn(50 * 9, DIM), batch_rows=9)
    served = quantizer.serving()
    image = ImageSpec(channels=1, height=12, width=12)
    spec = CodesSpec(dtype="int32", shape=ends[-1:], codebook_size=size, codebook_dim=DIM, level_grids=grids)
    encoder = nn.Conv2d(1, DIM, STRIDE, stride=STRIDE)
    encode = encoding(encoder, served, image, spec)
    decode = decoding(served, nn.ConvTranspose2d(DIM, 1, STRIDE, stride=STRIDE), spec)
    assert not isinstance(encode.module, Chain)
    assert list(encode.variants) == ["cuda"]
    # With fewer distances in a block, the graph has a loop over the images.
    monkeypatch.setattr(lookup, "DISTANCES", 8 * size)
    monkeypatch.setattr(lookup, "FEWEST_ROWS", 1)
    encode = encoding(encoder, served, image, spec)
    assert isinstance(encode.module, Chain)
    encoders = [encode, *encode.variants.values()]
    assert [each.file for each in encoders] == ["encoder.onnx", "encoder.cuda.onnx"]
    write_graphs([*encoders, decode], tmp_path, served.codebook)
    assert arg_mins_on_a_gpu(tmp_path) == len(grids)
    run = ExportedGraphs(tmp_path, threads=1)
    images = torch.randint(0, 256, (5, 12, 12, 1)).byte()
    for each in encoders:
        (codes,) = run(each, {"images": images, "levels": torch.tensor(3)})
        assert (codes.dtype, codes.shape) == (torch.int32, (5, 14))
        assert (quantizer.gap(encoder(to_unit(images.permute(0, 3, 1, 2))), codes) < FLIP_GAP).all()
    for count, end in enumerate(ends, start=1):
        first = codes[:, :end].contiguous()
        for each in encoders:
            (given,) = run(each, {"images": images, "levels": torch.tensor(count)})
            assert torch.equal(given, first)
        (expected,) = run(decode, {"codes": first, "levels": torch.tensor(3)})
        (cut,) = run(decode, {"codes": codes, "levels": torch.tensor(count)})
        assert torch.equal(cut, expected)
        assert (decode.module(first).int() - expected.int()).abs().max() <= 1
