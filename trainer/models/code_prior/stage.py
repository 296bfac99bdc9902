"""The prior over the codes as a stage of training: its loss, its metrics, and the graph that samples it."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from service.contract.manifest import CodesSpec, Input, Output, Parameter, Role
from trainer.config import Schedule, VQVAEConfig
from trainer.config.base import HOTTEST
from trainer.data.batches import Batch
from trainer.data.distributed import even, share, summed, uniform
from trainer.image_sheets import class_sheet, sheet_labels
from trainer.models.base import Best, Graph, RunGraph, SecondStage, Step
from trainer.models.code_prior.network import CodePrior, Ordered, random_masks
from trainer.models.samplers.autoregressive import CodeSampler

DRAWN_FOR_PARITY = 64
# Beyond it there is a handful of images.
STRONGEST = 10.0
# On MNIST 93 % of the samples are the asked digit without guidance, 99 % with this, and more gains little.
GUIDANCE = 1.5


class PriorStage(SecondStage):
    """Trains a ``CodePrior`` on the codes of the training images.

    Args:
        config: whose ``prior_...`` fields say how.
        spec: the codes of an image.
        classes: number of classes, 0 for none.
        encode: uint8 images ``(B, C, H, W)`` to codes, int ``(B, h, w)`` or ``(B, h, w, L)``.
        decode: such codes to uint8 images ``(B, C, H, W)``.

    """

    name = "prior"
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
        )

    def schedule(self) -> Schedule:
        return self.config.prior_schedule()

    def inputs(self, images: Tensor) -> Tensor:
        """The codes of images ``(B, h, w)``, or with ``flips`` of each and its mirror image ``(B, 2, h, w)``.

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
        ordered = Ordered.of(masks)
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
        """``sample/autoregressive``."""
        network = self.network
        places = math.prod(network.grid)
        inputs = [
            Input(name="noise", role=Role.uniform, shape=(places,)),
            Input(name="codes", role=Role.codes),
            Input(name="mask", role=Role.mask),
            Input(name="temperature", role=Role.parameter),
            Input(name="top_k", role=Role.parameter),
        ]
        axes: list[Mapping[int, str]] = [{0: "n"}, {0: "n"}, {0: "n"}, {}, {}]
        parameters = {
            "temperature": Parameter(
                dtype="float32",
                default=self.config.prior_temperature,
                minimum=0,
                maximum=HOTTEST,
                description="Sharpens the probabilities below 1, flattens them above; 0 takes the likeliest.",
            ),
            "top_k": Parameter(
                dtype="int64",
                default=network.size,
                minimum=1,
                maximum=network.size,
                description="Draw each code only among so many of the likeliest.",
            ),
        }
        if network.classes:
            inputs.append(Input(name="label", role=Role.label, default=network.no_label))
            inputs.append(Input(name="guidance", role=Role.parameter))
            axes += [{0: "n"}, {}]
            parameters["guidance"] = Parameter(
                dtype="float32",
                default=GUIDANCE,
                minimum=0,
                maximum=STRONGEST,
                description="Classifier-free guidance: above 1, the images are more clearly of their class "
                "and less varied. Without a label it does nothing.",
            )
        return [
            Graph(
                operation="sample/autoregressive",
                file="sample_autoregressive.onnx",
                module=CodeSampler(network),
                examples=tuple(self._examples(2, guidance=2.0).values()),
                axes=tuple(axes),
                inputs=tuple(inputs),
                outputs=(Output(name="drawn", role=Role.codes),),
                description="Codes drawn one after the other from the prior; with a mask, only those in it, "
                "to go with the others.",
                parameters=parameters,
            )
        ]

    @torch.no_grad()
    def parity(self, graphs: Sequence[Graph], run: RunGraph) -> float:
        """Run the sampler's graph; the largest gap between a draw's noise and the interval of its code."""
        (graph,) = graphs
        inputs = self._examples(DRAWN_FOR_PARITY, guidance=1.5)
        (codes,) = run(graph, inputs)
        return CodeSampler(self.network).gap(tuple(inputs.values()), codes)

    def _pictured(self) -> dict[str, Tensor]:
        labels = sheet_labels(self.network.classes)
        masks = torch.ones(len(labels), *self.network.grid, dtype=torch.bool)
        inputs = self._inputs(labels, masks, guidance=GUIDANCE)
        return inputs | {"temperature": torch.tensor(self.config.prior_temperature)}

    def _examples(self, count: int, *, guidance: float) -> dict[str, Tensor]:
        """Inputs for images of all classes and none, of which half are to be completed."""
        generator = torch.Generator().manual_seed(0)
        masks = torch.rand(count, *self.network.grid, generator=generator) < 0.5
        masks[::2] = True
        return self._inputs(torch.arange(count) % (self.network.classes + 1), masks, guidance=guidance)

    def _inputs(self, labels: Tensor, masks: Tensor, *, guidance: float) -> dict[str, Tensor]:
        """The inputs of the sampler's graph, with noise and given codes from a fixed seed."""
        network, count = self.network, len(labels)
        generator = torch.Generator().manual_seed(0)
        inputs = {
            "noise": torch.rand(count, math.prod(network.grid), generator=generator),
            "codes": torch.randint(network.size, masks.shape, generator=generator).int(),
            "mask": masks,
            "temperature": torch.tensor(1.0),
            "top_k": torch.tensor(network.size),
        }
        return inputs | {"label": labels, "guidance": torch.tensor(guidance)} if network.classes else inputs

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
        """The codes of each image, int64 ``(B, h, w)``; in training half of them of its mirror image."""
        if self.config.flips:
            rows = torch.arange(len(inputs), device=inputs.device)
            mirrored = uniform(len(inputs), device=inputs.device) < (0.5 if self.training else 0.0)
            inputs = inputs[rows, mirrored.long()]
        return inputs.long()

    def _labels(self, count: int, labels: Tensor | None) -> Tensor:
        if labels is None or not self.network.classes:
            return torch.full((count,), self.network.no_label, device=self.network.head.weight.device)
        return labels
