"""The remote VAE through the client of diffusers against the same graphs in the process of the caller."""

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from service.contract.cpu_count import available_cpus
from service.contract.manifest import Role
from service.models.bundle import read_bundle
from service.models.model import BatchLimits, ServedModel
from service.models.validation import load_model
from service.runtime.providers import choose_provider
from tests.fixtures.processes import serving


def local(model: ServedModel, verb: str, role: Role, array: NDArray[Any]) -> NDArray[Any]:
    """The outputs of an operation, run here."""
    pipeline = model.pipeline(verb)
    results = model.run(pipeline, {role: array}, len(array), pipeline.defaults, default_noise=pipeline.names)
    return results.arrays[Role.codes if verb == "encode" else Role.images]


def calls(model: ServedModel, url: str, side: int) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """What is timed, by name: a call here, and one through the client."""
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

    def here() -> NDArray[Any]:
        return local(model, "decode", Role.codes, codes)

    found = remote_encode(f"{url}/encode", pictures)
    if not np.array_equal(found.permute(0, 2, 3, 1).numpy(), codes):
        raise click.ClickException("the service does not give the codes of the graphs here")
    return {
        "encode, float32": (
            lambda: local(model, "encode", Role.images, images),
            lambda: remote_encode(f"{url}/encode", pictures),
        ),
        "decode, float32": (here, decode(output_type="pt", return_type="pt")),
        "decode, uint8": (here, decode(output_type="pt", return_type="pt", partial_postprocess=True)),
        "decode, JPEG": (here, decode()),
    }


def seconds(call: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


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
        flags = ("--provider=cpu", "--workers=1", f"--threads={threads}")
        with serving(Path(scratch), *flags) as url:
            timed = calls(model, f"{url}/diffusers/{model.manifest.name}", side)
            times: dict[str, list[tuple[float, float]]] = {name: [] for name in timed}
            for _ in range(rounds):
                for name, (here, there) in timed.items():
                    times[name].append((seconds(here), seconds(there)))
    click.echo(
        f"| {side}x{side}, {threads} threads, median of {rounds} | here | HTTP | ratio, lowest to highest |"
    )
    click.echo("| --- | --- | --- | --- |")
    for name, pairs in times.items():
        ratios = sorted(there / here for here, there in pairs)
        here, there = (statistics.median(each) for each in zip(*pairs, strict=True))
        click.echo(
            f"| {name} | {1000 * here:.0f} ms | {1000 * there:.0f} ms | "
            f"{there / here:.3f}, {ratios[0]:.2f} to {ratios[-1]:.2f} |"
        )
