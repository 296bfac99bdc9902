"""The sampler's graph against the same transformer sampled in torch, with a cache and without.

The torch loops have nothing in them but the network and the draw: no mask, no order, no guidance.
"""

from collections.abc import Callable
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.benchmarks.stages import second_stage
from tests.benchmarks.turns import in_turns
from trainer.evaluation.exported_model import ExportedGraphs
from trainer.models.code_prior.network import CodePrior, Ordered
from trainer.models.code_prior.stage import PriorStage
from trainer.models.samplers.inverse_transform import BELOW_ONE
from trainer.training.run_folder import RunFolder


def without_cache(prior: CodePrior, noise: Tensor, labels: Tensor, *, growing: bool) -> Tensor:
    """Codes, int32 ``(n, h, w)``: each step runs the transformer on all positions, or on those so far."""
    context, sequence = _context(prior, labels), _empty(prior, labels)
    for position in range(noise.shape[1]):
        end = position + 1 if growing else noise.shape[1]
        hidden = prior.transformer(prior.code(sequence[:, :end]) + context[:, :end])
        sequence[:, position + 1] = _drawn(prior.head(hidden[:, position]), noise[:, position])
    return _grid(prior, sequence)


def with_cache(prior: CodePrior, noise: Tensor, labels: Tensor) -> Tensor:
    """The same, running the transformer on one position after the other."""
    context, sequence = _context(prior, labels), _empty(prior, labels)
    rows = torch.arange(len(labels))
    caches = prior.transformer.caches(len(labels), noise.shape[1])
    for position in range(noise.shape[1]):
        x = prior.code(sequence[:, position]) + context[:, position]
        hidden, caches = prior.transformer.step(x, caches, torch.tensor(position), rows)
        sequence[:, position + 1] = _drawn(prior.head(hidden), noise[:, position])
    return _grid(prior, sequence)


def _context(prior: CodePrior, labels: Tensor) -> Tensor:
    whole = torch.ones(len(labels), *prior.grid, dtype=torch.bool)
    return prior.context(Ordered.of(whole).order, labels)


def _empty(prior: CodePrior, labels: Tensor) -> Tensor:
    height, width = prior.grid
    return torch.full((len(labels), height * width + 1), prior.size)


def _drawn(logits: Tensor, noise: Tensor) -> Tensor:
    sums = F.softmax(logits, dim=-1).cumsum(dim=-1)
    return (sums <= noise[:, None] * BELOW_ONE).sum(dim=-1)


def _grid(prior: CodePrior, sequence: Tensor) -> Tensor:
    return sequence[:, 1:].unflatten(1, prior.grid).int()


@click.command("sampling")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("exported", type=click.Path(path_type=Path))
@click.option("--images", default=16, show_default=True)
@click.option("--rounds", default=7, show_default=True)
@click.option("--threads", default=0, help="of torch and ONNX Runtime alike; 0: their defaults")
def command(run: Path, exported: Path, images: int, rounds: int, threads: int) -> None:
    """Milliseconds for 16 images: the graph of EXPORTED against loops over the prior of RUN, in turns."""
    if threads:
        torch.set_num_threads(threads)
    stage = second_stage(RunFolder.open(run), PriorStage)
    prior, (graph,) = stage.network, stage.graphs()
    noise = torch.rand(images, prior.grid[0] * prior.grid[1], generator=torch.Generator().manual_seed(0))
    labels = torch.arange(images) % prior.classes
    codes = torch.zeros(images, *prior.grid, dtype=torch.int32)
    inputs = {
        "noise": noise,
        "codes": codes,
        "mask": codes == 0,
        "temperature": torch.tensor(1.0),
        "top_k": torch.tensor(prior.size),
        "label": labels,
        "guidance": torch.tensor(1.0),
    }
    runner = ExportedGraphs(exported, threads)
    contenders: dict[str, Callable[[], Tensor]] = {
        "tessera: one graph, ONNX Runtime": lambda: runner(graph, inputs)[0],
        "torch, with a cache": lambda: with_cache(prior, noise, labels),
        "torch, no cache, on the codes so far": lambda: without_cache(prior, noise, labels, growing=True),
        "torch, no cache, on all positions": lambda: without_cache(prior, noise, labels, growing=False),
    }
    with torch.inference_mode():
        medians, results = in_turns(contenders, rounds)
    ours = next(iter(medians))
    click.echo("| sampler | ms | of ours | codes that differ |\n|---|---|---|---|")
    for name, median in medians.items():
        differ = (results[name] != results[ours]).float().mean()
        click.echo(f"| {name} | {median * 1000:.1f} | {median / medians[ours]:.1f} | {differ:.2%} |")
