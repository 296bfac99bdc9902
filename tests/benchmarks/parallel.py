"""The parallel sampler's graph against the autoregressive one, on priors of random weights."""

import tempfile
import time
from functools import partial
from pathlib import Path

import click
import torch
from torch import Tensor

from tests.benchmarks.turns import in_turns
from trainer.evaluation.exported_model import ExportedGraphs
from trainer.export.onnx_export import write_graphs
from trainer.models.code_prior import sampling
from trainer.models.code_prior.network import CodePrior
from trainer.models.graph import Graph

SIZE, CLASSES = 512, 10


@click.command("parallel")
@click.option("--side", default=16, show_default=True, help="of the grid, in codes")
@click.option("--steps", default=8, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--threads", default=1, show_default=True, help="of ONNX Runtime")
def command(side: int, steps: int, rounds: int, threads: int) -> None:
    """CPU time of 1 and 8 images, with and without guidance."""
    torch.manual_seed(0)
    prior = CodePrior(SIZE, (side, side), CLASSES, width=128, blocks=4, heads=4, dropout=0).eval()
    graphs = [sampling.autoregressive(prior, 1.0), sampling.parallel(prior, 1.0)]
    click.echo("| grid | images | guidance | autoregressive, ms | parallel, ms | ratio |")
    click.echo("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        write_graphs(graphs, Path(folder))
        run = ExportedGraphs(Path(folder), threads)
        for images in (1, 8):
            masks = torch.ones(images, side, side, dtype=torch.bool)
            for guidance in (1.0, sampling.GUIDANCE):
                inputs = sampling.inputs(prior, torch.arange(images), masks, guidance=guidance)
                inputs["steps"] = torch.tensor(steps)
                contenders = {
                    graph.operation: partial(_drawn, run, graph, sampling.of_graph(graph, inputs))
                    for graph in graphs
                }
                medians, _ = in_turns(contenders, rounds, clock=time.process_time)
                one, several = (1000 * medians[graph.operation] for graph in graphs)
                row = f"| {side}x{side} | {images} | {guidance} | {one:.1f} | {several:.1f} |"
                click.echo(f"{row} {one / several:.1f} |")


def _drawn(run: ExportedGraphs, graph: Graph, inputs: dict[str, Tensor]) -> Tensor:
    return run(graph, inputs)[0]
