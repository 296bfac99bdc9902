"""The pixel loop's graph against the same decoder in torch, which makes a full pass for every pixel.

All draw from the same codes and noise. Where a draw differs, the noise must be within a rounding error of the
pixel's chance: what follows such a pixel is another image.
"""

from collections.abc import Callable
from pathlib import Path

import click
import torch
from torch import Tensor

from tests.benchmarks.turns import in_turns
from trainer.data.loading import load
from trainer.evaluation.exported_model import ExportedGraphs
from trainer.models.base import build
from trainer.models.vlae import VLAE
from trainer.training import checkpoint
from trainer.training.run_folder import RunFolder


def model_of(run: RunFolder) -> VLAE:
    """The model of a run on MNIST, as it would be exported. Raises UsageError if it is of another kind."""
    dataset = load("mnist")
    model = build(run.config, dataset.spec, 1.0, dataset.classes)
    if not isinstance(model, VLAE):
        raise click.UsageError(f"{run.folder} has no VLAE")
    checkpoint.load_weights(run.latest_checkpoint(), model, averaged=run.config.average_decay > 0)
    return model.eval()


def full_passes(model: VLAE, codes: Tensor, noise: Tensor) -> Tensor:
    """Images, uint8 ``(n, H, W, C)``: the whole stack on the image so far, for each pixel."""
    features = model.decoder(codes)
    image, one = model.image, torch.tensor(1.0)
    drawn = torch.zeros(len(codes), image.channels, image.height, image.width)
    for place in range(image.height * image.width):
        row, column = divmod(place, image.width)
        output = model.stack(drawn, features)[:, :, row, column]
        drawn[:, :, row, column] = model.pixel.draw(output, noise[:, place], one)
    return (drawn * 255).round().byte().permute(0, 2, 3, 1)


@click.command("pixels")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("exported", type=click.Path(path_type=Path))
@click.option("--images", default=16, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--threads", default=0, help="of torch and ONNX Runtime alike; 0: their defaults")
def command(run: Path, exported: Path, images: int, rounds: int, threads: int) -> None:
    """Milliseconds for 16 images by label: the graphs of EXPORTED against loops over the model of RUN."""
    if threads:
        torch.set_num_threads(threads)
    model = model_of(RunFolder.open(run))
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(images, model.config.latent_dim, generator=generator)
    noise = torch.rand(
        images, model.image.height * model.image.width, model.pixel.noises, generator=generator
    )
    labels, one = torch.arange(images) % max(model.classes, 1), torch.tensor(1.0)
    graphs = {graph.operation: graph for graph in model.graphs()}
    runner = ExportedGraphs(exported, threads)

    def codes_of() -> Tensor:
        given = {"noise": start, "code_temperature": one, **({"label": labels} if model.classes else {})}
        return runner(graphs["sample/prior"], given)[0]

    def decoded(codes: Tensor) -> Tensor:
        given = {"codes": codes, "noise": noise, "temperature": one, "mean": torch.tensor(0)}
        return runner(graphs["decode"], given)[0]

    codes, loop = codes_of(), model.loop()
    contenders: dict[str, Callable[[], Tensor]] = {
        "tessera: decode, ONNX Runtime": lambda: decoded(codes),
        "tessera: sample/prior and decode": lambda: decoded(codes_of()),
        "torch, pixel by pixel with a cache": lambda: loop(codes, noise, one, torch.tensor(0))[0],
        "torch, a full pass for each pixel": lambda: full_passes(model, codes, noise),
    }
    with torch.inference_mode():
        medians, results = in_turns(contenders, rounds)
        gap = loop.gap((codes, noise, one, torch.tensor(0)), next(iter(results.values())))
    ours = next(iter(medians))
    click.echo(f"| {images} images | ms | of ours | images that differ |\n|---|---|---|---|")
    for name, median in medians.items():
        differ = int((results[name] != results[ours]).flatten(1).any(dim=1).sum())
        click.echo(f"| {name} | {median * 1000:.1f} | {median / medians[ours]:.1f} | {differ} |")
    click.echo(f"largest distance of the noise from a draw of torch's: {gap:.2g}")
