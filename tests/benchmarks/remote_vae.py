"""The remote VAE through the client of diffusers against the same graphs in the process of the caller.

Beside the seconds on a clock are those of the processors, of client and service together, which other work on
the machine hardly changes.
"""

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from numpy.typing import NDArray

from service.contract.cpu_count import available_cpus
from service.contract.manifest import Role
from service.models.bundle import read_bundle
from service.models.model import BatchLimits, ServedModel
from service.models.validation import load_model
from service.runtime.providers import choose_provider
from tests.benchmarks.sizes import processor_seconds
from tests.fixtures.processes import serving_process

HERE = "here"


def local(model: ServedModel, verb: str, role: Role, array: NDArray[Any]) -> NDArray[Any]:
    """The outputs of an operation, run here."""
    pipeline = model.pipeline(verb)
    results = model.run(pipeline, {role: array}, len(array), pipeline.defaults, default_noise=pipeline.names)
    return results.arrays[Role.codes if verb == "encode" else Role.images]


def calls(model: ServedModel, url: str, side: int) -> dict[str, dict[str, Callable[[], Any]]]:
    """What is timed, by verb and name: a call here, and those through the client."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers.utils.remote_utils import remote_decode, remote_encode

    images = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    codes = local(model, "encode", Role.images, images)
    pictures = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()
    latents = torch.from_numpy(codes).permute(0, 3, 1, 2).contiguous()

    def decode(**flags: Any) -> Callable[[], Any]:
        return lambda: remote_decode(f"{url}/decode", latents, do_scaling=False, **flags)

    return {
        "encode": {
            HERE: lambda: local(model, "encode", Role.images, images),
            "float32": lambda: remote_encode(f"{url}/encode", pictures),
        },
        "decode": {
            HERE: lambda: local(model, "decode", Role.codes, codes),
            "float32": decode(output_type="pt", return_type="pt"),
            "uint8": decode(output_type="pt", return_type="pt", partial_postprocess=True),
            "JPEG": decode(),
        },
    }


class Cost(NamedTuple):
    """Seconds on a clock, and seconds of the processors."""

    clock: float
    processors: float

    @classmethod
    def of(cls, call: Callable[[], Any], service: int) -> "Cost":
        """What a call costs this process and the service, by its process id."""
        clock, processors = time.perf_counter(), time.process_time() + processor_seconds(service)
        call()
        return cls(time.perf_counter() - clock, time.process_time() + processor_seconds(service) - processors)


@click.command("remote-vae")
@click.argument("exported", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--side", default=512, show_default=True, help="Height and width of the image, in pixels.")
@click.option("--rounds", default=5, show_default=True, help="Calls of each kind, in turns.")
def command(exported: Path, side: int, rounds: int) -> None:
    """Time EXPORTED, a published model with latents, here and through a service with as many threads."""
    threads = available_cpus()
    model = load_model(read_bundle(exported), choose_provider("cpu", threads), BatchLimits())
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / exported.name).symlink_to(exported.absolute())
        # An image of more pixels than a batch may have runs at a lower priority, which the call here has not.
        batch = f"--batch-pixels={side * side}"
        flags = ("--provider=cpu", "--workers=1", f"--threads={threads}", batch)
        with serving_process(Path(scratch), *flags) as (service, url):
            timed = calls(model, f"{url}/diffusers/{model.manifest.name}", side)
            costs: dict[tuple[str, str], list[Cost]] = {}
            for number in range(rounds):
                for verb, kinds in timed.items():
                    for name, call in kinds.items():
                        costs.setdefault((verb, name), []).append(Cost.of(call, service.pid))
                shown = [f"{' '.join(each)} {taken[-1].processors:.2f} s" for each, taken in costs.items()]
                click.echo(f"round {number + 1}, processors: {', '.join(shown)}", err=True)
    click.echo(
        f"| {side}x{side}, {threads} threads, {rounds} rounds | here | HTTP | ratio | lowest to highest |"
    )
    click.echo("| --- | --- | --- | --- | --- |")
    for (verb, name), taken in costs.items():
        for what in Cost._fields if name != HERE else ():
            own, there = ([getattr(cost, what) for cost in each] for each in (costs[verb, HERE], taken))
            ratios = sorted(second / first for first, second in zip(own, there, strict=True))
            medians = f"{statistics.median(own):.2f} s | {statistics.median(there):.2f} s"
            spread = f"{statistics.median(ratios):.3f} | {ratios[0]:.3f} to {ratios[-1]:.3f}"
            click.echo(f"| {verb}, {name}: {what} | {medians} | {spread} |")
