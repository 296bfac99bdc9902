"""Langevin through a running service against the plain torch loop, which asks autograd for the gradient.

The torch loop has nothing in it but the chain; the service also draws the noise, decodes the codes, and
answers by HTTP.
"""

import statistics
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import orjson
import torch
from torch import Tensor

from service.contract.noise import normal, stream
from tests.benchmarks.stages import second_stage
from tests.benchmarks.turns import PAUSE
from tests.fixtures.processes import serving
from trainer.evaluation.exported_model import ExportedGraphs
from trainer.models.gaussian.energy import Ratio, energy
from trainer.models.gaussian.noise_contrastive import STEP_SIZE, ClassifierStage
from trainer.training.run_folder import RunFolder

SEED = 1
TIMED = 5


def by_autograd(ratio: Ratio, start: Tensor, noise: Tensor, step_size: float) -> Tensor:
    """The codes after a chain, float32 ``(n, d)``."""
    codes = start
    for step in range(noise.shape[1]):
        codes = codes - step_size / 2 * gradient(ratio, codes) + step_size**0.5 * noise[:, step]
    return codes


def gradient(ratio: Ratio, codes: Tensor) -> Tensor:
    """Of the energy, by autograd: float32 ``(n, d)``."""
    codes = codes.detach().requires_grad_()
    total = codes.square().sum() / 2 - ratio(codes).sum()
    return torch.autograd.grad(total, codes)[0]


def _ask(url: str, accept: str) -> bytes:
    request = urllib.request.Request(url, method="POST", headers={"Accept": accept})  # noqa: S310 - our own
    with urllib.request.urlopen(request) as answer:  # noqa: S310 - as above
        return bytes(answer.read())


@click.command("chains")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("exported", type=click.Path(path_type=Path))
@click.option("--count", default=16, show_default=True, help="samples of a request")
@click.option("--steps", default=200, show_default=True)
@click.option("--rounds", default=5, show_default=True)
def command(run: Path, exported: Path, count: int, steps: int, rounds: int) -> None:
    """Milliseconds of a chain: a service of EXPORTED against torch loops over the classifier of RUN."""
    stage = second_stage(RunFolder.open(run), ClassifierStage)
    items = range(count)
    start, noise = (
        torch.from_numpy(normal(SEED, items, stream("sample/langevin", name), shape))
        for name, shape in (
            ("start", (stage.config.latent_dim,)),
            ("noise", (steps, stage.config.latent_dim)),
        )
    )
    inputs = {
        "start": start,
        "noise": noise,
        "step_size": torch.tensor(STEP_SIZE),
        "every": torch.tensor(0),
    }
    graph, runner = stage.graphs()[0], ExportedGraphs(exported)
    with serving(exported.parent) as url:
        asked = f"{url}/sample?model={exported.name}&method=langevin&steps={steps}&n={count}&seed={SEED}"
        contenders: dict[str, Callable[[], object]] = {
            "tessera: /sample, PNG": lambda: _ask(asked, "image/png"),
            "tessera: /sample, npy": lambda: _ask(asked, "application/x-npy"),
            "tessera: the graph alone": lambda: runner(graph, inputs),
            "torch, autograd": lambda: by_autograd(stage.network, start, noise, STEP_SIZE),
        }
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, contender in contenders.items():
                # The threads of the one before go on spinning for a while, on the cores of this one.
                time.sleep(PAUSE)
                # And a processor that slept takes a while to be fast.
                contender()
                for _ in range(TIMED):
                    started = time.perf_counter()
                    contender()
                    times[name].append(time.perf_counter() - started)
        served = np.array(orjson.loads(_ask(asked, "application/json"))["codes"], dtype=np.float32)
    medians = {name: statistics.median(values) for name, values in times.items()}
    slowest = medians["torch, autograd"]
    click.echo(f"| {count} chains of {steps} steps | ms | torch over this |\n|---|---|---|")
    for name, median in medians.items():
        click.echo(f"| {name} | {median * 1000:.1f} | {slowest / median:.1f} |")
    codes = by_autograd(stage.network, start, noise, STEP_SIZE)
    click.echo(f"codes differ by at most {np.abs(served - codes.numpy()).max():.2g}")
    with torch.no_grad():
        by_hand = energy(stage.network, codes).gradient
    wanted = gradient(stage.network, codes)
    click.echo(
        f"gradients by at most {float((by_hand - wanted).abs().max() / wanted.abs().max()):.2g}, relative"
    )
