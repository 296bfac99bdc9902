"""Drawing codes from a prior, one after the other, as a chain that becomes one ONNX graph."""

import math
from typing import cast

import torch
from torch import Tensor

from trainer.models.code_prior.network import CodePrior, Ordered
from trainer.models.onnx_scan import Chain, Loop, Tensors
from trainer.models.samplers.guidance import GuidedRows, guided
from trainer.models.samplers.inverse_transform import BELOW_ONE, distance

# A temperature of 0 is the greedy choice; nothing is divided by less than this.
COLDEST = 1e-6


class CodeSampler(Chain):
    """Codes by inverse transform sampling: of the cumulative probabilities, the first above the noise.

    Inputs, for ``n`` images and grids of ``T`` codes:

    - ``noise``: float32 ``(n, T)`` in [0, 1), by position of the sequence
    - ``codes``: int32 ``(n, h, w)``, of which those outside the mask are kept
    - ``mask``: bool ``(n, h, w)``, True where a code is to be drawn
    - ``temperature``: float32 scalar, 0 for the likeliest code
    - ``top_k``: int64 scalar, draw only among so many of the likeliest codes
    - if the prior has classes, ``label``: int64 ``(n,)``, ``no_label`` for none
    - if the prior has classes, ``guidance``: float32 scalar; 1 draws from p(codes | class), more moves away
      from p(codes), less towards it

    The output is ``codes``, int32 ``(n, h, w)``.

    The transformer runs ``m`` rows: the ``n`` images, and under guidance each again without its class.
    """

    def __init__(self, prior: CodePrior) -> None:
        super().__init__()
        self.prior = prior
        self.axes = {
            "context": {1: "m"},
            "noise": {1: "n"},
            "kept": {1: "n"},
            "masked": {1: "n"},
            "code": {0: "n"},
            "drawn": {1: "n"},
            "rows": {0: "m"},
            "image": {0: "m"},
            "with_class": {0: "n"},
            "without_class": {0: "n"},
            "order": {0: "n"},
            **{f"{part}_{block}": {0: "m"} for part in ("keys", "values") for block in self._blocks},
        }

    @property
    def _blocks(self) -> range:
        return range(len(self.prior.transformer.blocks))

    def start(self, *inputs: Tensor) -> Loop:
        """Put the codes in order, and make the rows of the transformer."""
        noise, codes, mask, temperature, top_k = inputs[:5]
        prior = self.prior
        label, guidance = torch.full_like(noise[:, 0], prior.no_label).long(), torch.ones_like(temperature)
        if prior.classes:
            label, guidance = inputs[5:]
        runs = GuidedRows.of(prior, label, guidance)
        ordered = Ordered.of(mask)
        context = prior.context(ordered.order[runs.image], runs.labels)
        caches = prior.transformer.caches(runs.rows.shape[0], context.shape[1])
        kept = codes.flatten(1).long().gather(1, ordered.order)
        carried = {"code": torch.full_like(label, prior.size)}
        for block, (keys, values) in enumerate(caches):
            carried |= {f"keys_{block}": keys, f"values_{block}": values}
        return Loop(
            carried=carried,
            slices={
                "position": torch.arange(context.shape[1], device=noise.device),
                "context": context.transpose(0, 1),
                "noise": (noise * BELOW_ONE).transpose(0, 1),
                "kept": kept.transpose(0, 1),
                "masked": ordered.masked.transpose(0, 1),
            },
            fixed={
                "rows": runs.rows,
                "image": runs.image,
                "with_class": runs.with_class,
                "without_class": runs.without_class,
                "order": ordered.order,
                "temperature": temperature.clamp(min=COLDEST),
                "top_k": top_k,
                "guidance": guidance,
            },
        )

    def step(self, carried: Tensors, sliced: Tensors, fixed: Tensors) -> tuple[Tensors, Tensors]:
        """Run the transformer on one position, and draw its code where the mask says so."""
        sums, carried = self._predict(carried, sliced, fixed)
        drawn = (sums <= sliced["noise"][:, None]).float().sum(dim=-1).long()
        carried["code"] = code = torch.where(sliced["masked"], drawn, sliced["kept"])
        return carried, {"drawn": code}

    def finish(self, _: Tensors, emitted: Tensors, fixed: Tensors, /) -> tuple[Tensor, ...]:
        """Put the codes back into their places."""
        sequence, order = emitted["drawn"].transpose(0, 1), fixed["order"]
        places = torch.zeros_like(sequence).scatter(1, order, sequence)
        return (places.unflatten(1, self.prior.grid).int(),)

    def gap(self, inputs: tuple[Tensor, ...], codes: Tensor) -> float:
        """How far codes, int32 ``(n, h, w)``, are from those that these inputs draw.

        It is the largest distance of a draw's noise from the interval of cumulative probabilities in which
        its code is drawn, each draw given the codes before it. It is infinite if a code outside the mask has
        changed.
        """
        noise, kept, mask, *others = inputs
        if not torch.equal(torch.where(mask, kept, codes), kept):
            return math.inf
        carried, slices, fixed = self.start(noise, codes, mask, *others)
        largest = 0.0
        for position in range(noise.shape[1]):
            sliced = {name: rows[position] for name, rows in slices.items()}
            sums, carried = self._predict(carried, sliced, fixed)
            code, wanted = sliced["kept"], sliced["noise"]
            gaps = distance(sums, code, wanted)[sliced["masked"]]
            largest = max(largest, float(gaps.max()) if len(gaps) else 0.0)
            carried["code"] = code
        return largest

    def _predict(self, carried: Tensors, sliced: Tensors, fixed: Tensors) -> tuple[Tensor, Tensors]:
        """Cumulative probabilities of the next code, float32 ``(n, K)``, and what is carried on."""
        prior = self.prior
        caches = [(carried[f"keys_{block}"], carried[f"values_{block}"]) for block in self._blocks]
        x = prior.code(carried["code"][fixed["image"]]) + sliced["context"]
        x, caches = prior.transformer.step(x, caches, sliced["position"], fixed["rows"])
        logits = prior.head(x).float()
        logits = guided(logits, fixed)
        on = {"code": carried["code"]}
        for block, (keys, values) in enumerate(caches):
            on |= {f"keys_{block}": keys, f"values_{block}": values}
        return cumulative(logits, fixed["temperature"], fixed["top_k"]), on


def cumulative(logits: Tensor, temperature: Tensor, top_k: Tensor) -> Tensor:
    """Cumulative probabilities of the codes, float32 ``(n, K)``, of logits ``(n, K)``; the last is 1.

    ``temperature`` is a float32 scalar above 0, ``top_k`` an int64 scalar of which K restricts nothing.
    """
    size = logits.shape[-1]
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / temperature
    # Sorting all of them for nothing would be the most expensive part of a step.
    among = cast("int", torch.where(top_k < size, top_k, 1).item())
    torch._check(among >= 1)
    torch._check(among <= size)
    least = logits.topk(among, dim=-1).values[:, -1:]
    weights = torch.where((logits >= least) | (top_k >= size), logits.exp(), 0.0)
    sums = weights.cumsum(dim=-1)
    return sums / sums[:, -1:]
