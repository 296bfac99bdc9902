"""The exported lookup against what PyTorch exports by itself: ``Gemm`` to all distances, ``ArgMin``."""

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import click
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from service.contract.manifest import ImageSpec
from service.runtime.providers import choose_provider
from service.runtime.session import Session
from trainer.config import VQVAEConfig
from trainer.data.batches import Batches
from trainer.data.loading import load
from trainer.data.sizing import ImageOptions
from trainer.export.onnx_export import write_graphs
from trainer.models.base import to_unit
from trainer.models.graph import Graph
from trainer.models.vqvae import VQVAE

PLAIN = "plain.onnx"
BATCHES = (1, 64)
# Single images run quickly, so they get this many times more runs.
SINGLY = 10
# Encoder outputs for each code, of which one becomes the code; many are those of a plain background.
ROWS_PER_CODE = 8
HEADER = (
    "| codes | image | batch | `Gemm`, `ArgMin`: ms an image | ours: ms an image | no lookup: ms an image "
    "| ratio | codes that differ |\n|---|---|---|---|---|---|---|---|"
)


class Case(NamedTuple):
    codes: int
    dim: int
    size: int = 128
    channels: Literal[1, 3] = 3


CASES = (Case(4096, 8), Case(4096, 256), Case(16384, 8), Case(512, 32), Case(512, 32, 28, 1))


class Plain(nn.Module):
    """Images, uint8 ``(N, H, W, C)``, to codes, int32 ``(N, h, w)``, with all distances at once."""

    def __init__(self, model: VQVAE) -> None:
        super().__init__()
        self.encoder, self.quantizer = model.encoder, model.quantizer

    def forward(self, images: Tensor) -> Tensor:
        z = self.encoder(to_unit(images.permute(0, 3, 1, 2)))
        rows, codebook = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1]), self.quantizer.codebook
        codes = F.linear(rows * -2, codebook, codebook.square().sum(dim=1)).argmin(dim=1)
        return codes.view(z.shape[0], *z.shape[2:]).int()


class Outputs(nn.Module):
    """Images, uint8 ``(N, H, W, C)``, to the encoder's outputs, float32 ``(N, D, h, w)``."""

    def __init__(self, model: VQVAE) -> None:
        super().__init__()
        self.encoder = model.encoder

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.encoder(to_unit(images.permute(0, 3, 1, 2)))
        return outputs


def pictures(folder: Path | None, case: Case, count: int) -> NDArray[np.uint8]:
    """uint8 ``(count, H, W, C)``: of the folder, or of MNIST if they are grey; noise without a folder."""
    if folder is None:
        shape = (count, case.size, case.size, case.channels)
        return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    grey = case.channels == 1
    options = ImageOptions() if grey else ImageOptions(size=case.size, channels=3, background=255)
    dataset = load("mnist" if grey else str(folder), options, limit=count)
    images = torch.cat([batch.images for batch in Batches(dataset.train, count).ordered()])
    return images.permute(0, 2, 3, 1).contiguous().numpy()


@torch.no_grad()
def made(case: Case, images: NDArray[np.uint8]) -> VQVAE:
    """A new model whose codes are different outputs of its encoder for images, at random."""
    torch.manual_seed(0)
    config = VQVAEConfig(name="lookup", codebook_size=case.codes, codebook_dim=case.dim)
    spec = ImageSpec(channels=case.channels, height=case.size, width=case.size)
    model = VQVAE(config, spec, 1.0).eval()
    needed = -(-ROWS_PER_CODE * case.codes // (case.size // config.stride) ** 2)
    z = model.encoder(to_unit(torch.from_numpy(images[:needed]).permute(0, 3, 1, 2)))
    rows = z.permute(0, 2, 3, 1).reshape(-1, case.dim).unique(dim=0)
    model.quantizer.codebook.copy_(rows[torch.randperm(len(rows))[: case.codes]])
    return model


def plain_encoder(model: VQVAE) -> Graph:
    """The encoder as PyTorch exports it."""
    return replace(model.graphs()[0], file=PLAIN, module=Plain(model), provider_modules={})


def sessions(model: VQVAE, folder: Path, threads: int) -> dict[str, Session]:
    """The encoder as PyTorch exports it, ours, ours for CUDA if that is another, and without a lookup."""
    ours = model.graphs()[0]
    graphs: dict[str, Graph] = {
        "plain": plain_encoder(model),
        "ours": ours,
        **ours.variants,
        "outputs": replace(ours, file="outputs.onnx", module=Outputs(model), provider_modules={}),
    }
    write_graphs(list(graphs.values()), folder, model.codebook())
    provider = choose_provider("cpu", threads)
    return {key: Session(folder / graph.file, provider) for key, graph in graphs.items()}


def milliseconds(
    contenders: dict[str, Session], images: NDArray[np.uint8], rounds: int
) -> dict[str, list[float]]:
    """Milliseconds an image of each round, by session; a round before them warms up."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for round_ in range(rounds + 1):
        for name, session in contenders.items():
            started = time.perf_counter()
            session.run({"images": images}, ["codes"])
            if round_:
                times[name].append(1e3 * (time.perf_counter() - started) / len(images))
    return times


def differing(contenders: dict[str, Session], images: NDArray[np.uint8]) -> int:
    """How many codes of all images any of our graphs gives that the plain one does not."""
    count = 0
    for first in range(0, len(images), max(BATCHES)):
        given = {"images": images[first : first + max(BATCHES)]}
        expected, *found = (
            np.asarray(session.run(given, ["codes"])[0])
            for name, session in contenders.items()
            if name != "outputs"
        )
        count += sum(int((codes != expected).sum()) for codes in found)
    return count


@click.command("lookup")
@click.option("--pictures", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--images", default=1000, show_default=True, help="pictures whose codes are compared")
@click.option("--threads", default=1, show_default=True)
@click.option("--rounds", default=9, show_default=True, help="runs of each batch, in turns")
def command(folder: Path | None, images: int, threads: int, rounds: int) -> None:
    """Encoders with codebooks of several sizes, each in turns with the same encoder as PyTorch exports it."""
    click.echo(HEADER)
    for case in CASES:
        given = pictures(folder, case, images)
        with tempfile.TemporaryDirectory() as exported:
            contenders = sessions(made(case, given), Path(exported), threads)
            differ = f"{differing(contenders, given)} of {len(given):,} images"
            contenders.pop("cuda", None)
            for batch in BATCHES:
                times = milliseconds(contenders, given[:batch], rounds if batch > 1 else SINGLY * rounds)
                middle = {name: statistics.median(values) for name, values in times.items()}
                ratio = statistics.median(
                    plain / ours for plain, ours in zip(times["plain"], times["ours"], strict=True)
                )
                click.echo(
                    f"| {case.codes:,} of {case.dim} | {case.size}x{case.size}x{case.channels} | {batch} "
                    f"| {middle['plain']:.2f} | {middle['ours']:.2f} | {middle['outputs']:.2f} "
                    f"| {ratio:.2f} | {differ} |"
                )
