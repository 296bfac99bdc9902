"""Our quantizer and vector-quantize-pytorch's, in the same encoder and decoder, from the same seed.

Both are trained by the same loop with the same config; only the quantizer differs. The peer has what its
README recommends against collapse: moving averages, k-means start, restart of dead codes.
"""

import tempfile
from pathlib import Path

import click
import torch
from rich.console import Console
from torch import Tensor
from vector_quantize_pytorch import VectorQuantize

from trainer.config import VQVAEConfig, resolve
from trainer.data import Batches, Dataset, load
from trainer.device import choose
from trainer.fit import Fit
from trainer.kinds.vqvae import VQVAE
from trainer.measures import Evaluation
from trainer.quantizer import Quantized, Quantizer
from trainer.run import Run


class PeerQuantizer(Quantizer):
    """vector-quantize-pytorch's VectorQuantize in the place of our own."""

    def __init__(self, config: VQVAEConfig, decay: float) -> None:
        super().__init__(
            config.codebook_size,
            config.codebook_dim,
            update="ema",
            decay=config.decay,
            restart_below=0,
        )
        self.peer = VectorQuantize(
            dim=config.codebook_dim,
            codebook_size=config.codebook_size,
            decay=decay,
            kmeans_init=True,
            threshold_ema_dead_code=2,
            accept_image_fmap=True,
        )

    def forward(self, z: Tensor) -> Quantized:
        with torch.autocast(z.device.type, enabled=False):
            vectors, codes, commitment_loss = self.peer(z.float())
        counts = torch.bincount(codes.flatten(), minlength=self.size).float()
        zero = counts.new_zeros(())
        return Quantized(vectors, codes, zero, commitment_loss.sum(), counts)

    def start(self, rows: Tensor) -> None:
        """Left to the peer, which starts from its first batch."""


def _fitted(config: VQVAEConfig, dataset: Dataset, peer_decay: float | None, console: Console) -> VQVAE:
    variance = float((dataset.train.take(torch.arange(4096)).images.float() / 255).var(correction=0))
    torch.manual_seed(config.seed)
    model = VQVAE(config, dataset.spec, variance)
    if peer_decay is not None:
        model.quantizer = PeerQuantizer(config, peer_decay)
    machine = choose(config)
    train = Batches(dataset.train, config.batch_size, seed=config.seed, device=machine.device)
    test = Batches(dataset.test, config.batch_size, seed=config.seed, device=machine.device)
    fit = Fit(model, train, test, Run.create(config, {}), machine, console)
    fit.begin()
    fit()
    return model.cpu().float().eval()


@torch.no_grad()
def _measured(model: VQVAE, dataset: Dataset) -> dict[str, float]:
    evaluation = Evaluation(model.config.codebook_size)
    for batch in Batches(dataset.test, 250).ordered():
        quantized = model.quantizer(model.encoder(batch.images.float() / 127.5 - 1))
        decoded = ((model.decoder(quantized.vectors) + 1) * 127.5).clamp(0, 255).round().byte()
        evaluation.add(batch.images.numpy(), decoded.numpy(), quantized.codes.numpy())
    return evaluation.values()


@click.command("codebooks")
@click.option("--epochs", default=30, show_default=True)
@click.option("--limit", type=int, help="first N training images only")
@click.option("--seed", default=0, show_default=True)
@click.option("--only", type=click.Choice(["tessera", "peer"]), help="train one of the two")
@click.option("--peer-decay", default=0.8, show_default=True, help="0.8 is the peer's own default")
@click.option("--runs", type=click.Path(path_type=Path), help="keep the run folders here")
def command(
    epochs: int, limit: int | None, seed: int, only: str | None, peer_decay: float, runs: Path | None
) -> None:
    """Our quantizer against vector-quantize-pytorch's: MSE, PSNR, perplexity, usage."""
    console = Console(highlight=False, soft_wrap=True)
    with tempfile.TemporaryDirectory() as scratch:
        out = runs or Path(scratch)
        flags = {"epochs": epochs, "limit": limit, "seed": seed, "out": out}
        dataset = load("mnist", limit=limit)
        rows: dict[str, dict[str, float]] = {}
        for name, decay in (("tessera", None), ("peer", peer_decay)):
            if only in (None, name):
                config = resolve("vqvae", flags={**flags, "name": f"codebooks-{name}"})
                assert isinstance(config, VQVAEConfig)
                rows[name] = _measured(_fitted(config, dataset, decay, console), dataset)
    console.print("| quantizer | " + " | ".join(next(iter(rows.values()))) + " |")
    console.print("|---" * (1 + len(next(iter(rows.values())))) + "|")
    for name, values in rows.items():
        console.print(f"| {name} | " + " | ".join(f"{value:.5g}" for value in values.values()) + " |")
