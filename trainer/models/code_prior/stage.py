"""The prior over the codes as a stage of training: its loss, its metrics, and the graph that samples it."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import cast

import torch
from torch import Tensor

from service.contract.manifest import CodesSpec
from trainer.config import Schedule, VQVAEConfig
from trainer.data.batches import Batch
from trainer.data.distributed import even, share, summed, uniform
from trainer.image_sheets import class_sheet, sheet_labels
from trainer.models.base import Best, SecondStage, Step
from trainer.models.code_prior import sampling
from trainer.models.code_prior.network import CodePrior, Ordered, random_masks
from trainer.models.code_prior.orders import halton_ranks, random_steps
from trainer.models.graph import Graph, RunGraph
from trainer.models.samplers.autoregressive import CodeSampler
from trainer.models.samplers.parallel import ParallelSampler

DRAWN_FOR_PARITY = 64


class PriorStage(SecondStage):
    """Trains a ``CodePrior`` on the codes of the training images.

    Args:
        config: whose ``prior_...`` fields say how.
        spec: the codes of an image.
        classes: number of classes, 0 for none.
        encode: uint8 images ``(B, C, H, W)`` to codes, int ``(B, *grid)``.
        decode: such codes to uint8 images ``(B, C, H, W)``.

    """

    name = "prior"
    ranks: Tensor
    rate_flag = "--prior-lr"
    best = Best("test_bits")
    shown = MappingProxyType({"prior": "sample/autoregressive"})
    plotted = MappingProxyType({"test_bits": (None, None)})

    def __init__(
        self,
        config: VQVAEConfig,
        spec: CodesSpec,
        classes: int,
        encode: Callable[[Tensor], Tensor],
        decode: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.config = config
        self.encode = encode
        self.decode = decode
        self.network = CodePrior(
            config.codebook_size,
            spec.shape,
            classes,
            width=config.prior_width,
            blocks=config.prior_blocks,
            heads=config.prior_heads,
            dropout=config.prior_dropout,
            tied=config.prior_tied,
        )
        if config.prior_parallel_share:
            height, width = spec.shape
            self.register_buffer("ranks", halton_ranks((height, width)), persistent=False)

    def schedule(self) -> Schedule:
        return self.config.prior_schedule()

    def inputs(self, images: Tensor) -> Tensor:
        """The codes of images, ``(B, *grid)``; with ``flips`` also of mirrored ones, ``(B, 2, *grid)``.

        int16 or, for large codebooks, int32, as those of all images are in memory.
        """
        codes = self.encode(images)
        if self.config.flips:
            codes = torch.stack([codes, self.encode(images.flip(3))], dim=1)
        return codes.short() if self.network.size <= torch.iinfo(torch.int16).max else codes.int()

    def forward(self, inputs: Tensor, labels: Tensor | None = None, /) -> Step:
        """The mean cross-entropy of the masked codes, in nats."""
        network, codes = self.network, self._one_each(inputs)
        masks = random_masks(len(codes), network.grid, codes.device)
        ordered = self._ordered(masks)
        labels = self._labels(len(codes), labels)
        dropped = uniform(len(codes), device=codes.device) < self.config.prior_label_drop
        labels = torch.where(dropped, network.no_label, labels)
        nats = network(codes, labels, ordered) * ordered.masked
        loss = nats.sum() / even(ordered.masked.sum()).clamp(min=share())
        return Step(loss, {"loss": loss.detach()})

    def monitor(self, batches: Iterable[Batch]) -> dict[str, float]:
        """``test_bits``: bits an image, given its class where there are classes."""
        return {"test_bits": self._bits(batches, with_labels=True)}

    def pictures(self, batch: Batch) -> Mapping[str, Tensor]:
        """Draws from the prior; where there are classes, each has a column below its name."""
        device = batch.images.device
        inputs = [tensor.to(device) for tensor in self._pictured().values()]
        (codes,) = CodeSampler(self.network)(*inputs)
        return {"samples/epoch-{epoch:03}": class_sheet(self.decode(codes.long()), self.label_names)}

    @torch.no_grad()
    def measure(self, batches: Iterable[Batch]) -> dict[str, float]:
        """``bits``, and ``bits_given_class`` where the classes are known: of a test image's codes.

        The size that an entropy coder reaches with this prior: -log2 p(codes), the mean over the images.
        """
        kept = list(batches)
        metrics = {"bits": self._bits(kept, with_labels=False)}
        if self.network.classes and all(batch.labels is not None for batch in kept):
            metrics["bits_given_class"] = self._bits(kept, with_labels=True)
        return metrics

    def graphs(self) -> list[Graph]:
        """``sample/autoregressive``, and ``sample/parallel`` of a prior that has learnt its orders."""
        network, temperature = self.network, self.config.prior_temperature
        graphs = [sampling.autoregressive(network, temperature)]
        if self.config.prior_parallel_share:
            graphs.append(sampling.parallel(network, temperature))
        return graphs

    @torch.no_grad()
    def parity(self, graphs: Sequence[Graph], run: RunGraph) -> float:
        """Run the samplers' graphs; the largest gap between a draw's noise and the interval of its code."""
        largest = 0.0
        examples = sampling.examples(self.network, DRAWN_FOR_PARITY, guidance=1.5)
        for graph in graphs:
            inputs = sampling.of_graph(graph, examples)
            (codes,) = run(graph, inputs)
            sampler = cast("CodeSampler | ParallelSampler", graph.module)
            largest = max(largest, sampler.gap(tuple(inputs.values()), codes))
        return largest

    def _ordered(self, masks: Tensor) -> Ordered:
        """The order of each image: row by row, and for a share of them that of parallel sampling."""
        by_row, share = Ordered.of(masks), self.config.prior_parallel_share
        if not share:
            return by_row
        chosen = uniform(len(masks), 1, device=masks.device) < share
        return by_row.replaced(chosen, random_steps(masks, self.ranks))

    def _pictured(self) -> dict[str, Tensor]:
        labels = sheet_labels(self.network.classes)
        masks = torch.ones(len(labels), *self.network.grid, dtype=torch.bool)
        inputs = sampling.inputs(self.network, labels, masks, guidance=sampling.GUIDANCE)
        inputs |= {"temperature": torch.tensor(self.config.prior_temperature)}
        return sampling.of_graph(self.graphs()[0], inputs)

    def _bits(self, batches: Iterable[Batch], *, with_labels: bool) -> float:
        nats, seen = 0.0, 0
        for batch in batches:
            labels = self._labels(len(batch), batch.labels if with_labels else None)
            codes = self._one_each(batch.images)
            ordered = Ordered.of(torch.ones_like(codes, dtype=torch.bool))
            nats += float(self.network(codes, labels, ordered).double().sum())
            seen += len(batch)
        nats, images = summed(nats, seen)
        return nats / math.log(2) / images

    def _one_each(self, inputs: Tensor) -> Tensor:
        """The codes of each image, int64 ``(B, *grid)``; with ``flips``, half are mirrored in training."""
        if self.config.flips:
            rows = torch.arange(len(inputs), device=inputs.device)
            mirrored = uniform(len(inputs), device=inputs.device) < (0.5 if self.training else 0.0)
            inputs = inputs[rows, mirrored.long()]
        return inputs.long()

    def _labels(self, count: int, labels: Tensor | None) -> Tensor:
        if labels is None or not self.network.classes:
            return torch.full((count,), self.network.no_label, device=self.network.head.weight.device)
        return labels
