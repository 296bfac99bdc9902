"""Drawing codes from a prior several at a time, as a chain that becomes one ONNX graph."""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.models.code_prior.network import CodePrior, Ordered
from trainer.models.code_prior.orders import drawn_before, halton_ranks
from trainer.models.onnx_scan import Chain, Loop, Tensors
from trainer.models.samplers.autoregressive import COLDEST, cumulative
from trainer.models.samplers.guidance import GuidedRows, guided
from trainer.models.samplers.inverse_transform import BELOW_ONE, distance


class ParallelSampler(Chain):
    """Codes in few steps, those of a step independently of each other, each given all codes before the step.

    ``code_prior.orders`` decides which codes a step draws. A step runs the transformer once, on two kinds of
    positions together: those of the codes of the step before, whose keys and values the caches lack, and a
    query for each place that is drawn. Both have the input of a position in training (``CodePrior``). A
    query has the last known code as the one before it, and sees all known codes and itself. So a run of
    ``T`` codes is at most ``2 T`` positions, whatever the number of steps.

    The inputs are those of ``CodeSampler``, and after ``mask`` one more:

    - ``steps``: int64 scalar, from 1

    ``noise`` is by position of the sequence: the given codes come first, and both they and the others are in
    the order of ``halton_ranks``. The output is ``codes``, int32 ``(n, h, w)``.

    The images of a batch may have different numbers of given codes. In a step, those with fewer positions are
    padded with the position ``T``, an additional place at the end of the caches, which no position sees.
    """

    ranks: Tensor

    def __init__(self, prior: CodePrior) -> None:
        super().__init__()
        self.prior = prior
        self.places = math.prod(prior.grid)
        height, width = prior.grid
        self.register_buffer("ranks", halton_ranks((height, width)), persistent=False)
        of_images = ("sequence", "noise", "last", "next", "order", "with_class", "without_class")
        cached = [f"{part}_{block}" for part in ("keys", "values") for block in self._blocks]
        self.axes = {
            **{name: {0: "n"} for name in of_images},
            **{name: {0: "m"} for name in ("rows", "image", "labels", *cached)},
            **{name: {0: "steps", 1: "n"} for name in ("before", "known", "after")},
        }

    @property
    def _blocks(self) -> range:
        return range(len(self.prior.transformer.blocks))

    def start(self, *inputs: Tensor) -> Loop:
        """Put the codes in order, and count those of each step."""
        noise, codes, mask, steps, temperature, top_k = inputs[:6]
        prior, places = self.prior, self.places
        label, guidance = torch.full_like(noise[:, 0], prior.no_label).long(), torch.ones_like(temperature)
        if prior.classes:
            label, guidance = inputs[6:]
        runs = GuidedRows.of(prior, label, guidance)
        ordered = Ordered.of(mask, self.ranks)
        kept = codes.flatten(1).long().gather(1, ordered.order)
        masked = ordered.masked.long().sum(dim=1)
        known = places - masked + drawn_before(masked, steps)
        carried = {"sequence": F.pad(kept, (1, 1), value=prior.size)}
        for block, (keys, values) in enumerate(prior.transformer.caches(runs.rows.shape[0], places + 1)):
            carried |= {f"keys_{block}": keys, f"values_{block}": values}
        return Loop(
            carried=carried,
            slices={
                "before": F.pad(known[:-2], (0, 0, 1, 0)),
                "known": known[:-1],
                "after": known[1:],
            },
            fixed={
                "rows": runs.rows,
                "image": runs.image,
                "labels": runs.labels,
                "with_class": runs.with_class,
                "without_class": runs.without_class,
                "noise": F.pad(noise * BELOW_ONE, (0, 1)),
                "last": F.pad(ordered.order, (1, 0), value=places),
                "next": F.pad(ordered.order, (0, 1)),
                "order": ordered.order,
                "temperature": temperature.clamp(min=COLDEST),
                "top_k": top_k,
                "guidance": guidance,
            },
        )

    def step(self, carried: Tensors, sliced: Tensors, fixed: Tensors) -> tuple[Tensors, Tensors]:
        """Run the transformer on the codes of the step before and on the places of this one, and draw."""
        sums, asked, on = self._predict(carried, sliced, fixed)
        noise = fixed["noise"].gather(1, asked)
        drawn = (sums <= noise[..., None]).float().sum(dim=-1).long()
        return {**on, "sequence": carried["sequence"].scatter(1, asked + 1, drawn)}, {}

    def finish(self, carried: Tensors, _: Tensors, fixed: Tensors, /) -> tuple[Tensor, ...]:
        """Put the codes back into their places."""
        sequence, order = carried["sequence"][:, 1:-1], fixed["order"]
        places = torch.zeros_like(sequence).scatter(1, order, sequence)
        return (places.unflatten(1, self.prior.grid).int(),)

    def gap(self, inputs: tuple[Tensor, ...], codes: Tensor) -> float:
        """How far codes, int32 ``(n, h, w)``, are from those that these inputs draw.

        It is the largest distance of a draw's noise from the interval of cumulative probabilities in which
        its code is drawn, each draw given the codes of the steps before. It is infinite if a code outside the
        mask has changed.
        """
        noise, kept, mask, *others = inputs
        if not torch.equal(torch.where(mask, kept, codes), kept):
            return math.inf
        carried, slices, fixed = self.start(noise, codes, mask, *others)
        largest = 0.0
        for number in range(len(slices["known"])):
            sliced = {name: rows[number] for name, rows in slices.items()}
            sums, asked, on = self._predict(carried, sliced, fixed)
            drawn, wanted = carried["sequence"].gather(1, asked + 1), fixed["noise"].gather(1, asked)
            real = asked < self.places
            gaps = distance(sums[real], drawn[real], wanted[real])
            largest = max(largest, float(gaps.max()) if len(gaps) else 0.0)
            carried = {**on, "sequence": carried["sequence"]}
        return largest

    def _predict(self, carried: Tensors, sliced: Tensors, fixed: Tensors) -> tuple[Tensor, Tensor, Tensors]:
        """Cumulative probabilities ``(n, G, K)``, the positions they are of ``(n, G)``, and the caches."""
        prior, image, known = self.prior, fixed["image"], sliced["known"][:, None]
        fresh = self._positions(sliced["before"], sliced["known"])
        asked = self._positions(sliced["known"], sliced["after"])
        positions = torch.cat([fresh, asked], dim=1)
        # Where the code before each position is; of a query, it is the last that is known.
        source = torch.cat([fresh, known.expand_as(asked)], dim=1)
        x = prior.code(carried["sequence"].gather(1, source))
        x = x + prior.last_place(fixed["last"].gather(1, source))
        x = x + prior.next_place(fixed["next"].gather(1, positions))
        x = x[image] + prior.label(fixed["labels"])[:, None]
        seen = cast("int", sliced["after"].amax(dim=0).item())
        torch._check(seen >= 1)
        torch._check(seen <= self.places)
        slots = torch.arange(seen, device=x.device)
        # Padding sees all places: a softmax over nothing is not a number.
        until = torch.cat([fresh, torch.where(asked < self.places, known - 1, self.places)], dim=1)
        visible = (slots <= until[..., None]) | (slots == positions[..., None])
        unseen = torch.where(visible, 0.0, -torch.inf)
        place = (fixed["rows"][:, None], positions[image])
        caches = [(carried[f"keys_{block}"], carried[f"values_{block}"]) for block in self._blocks]
        x, caches = prior.transformer.extend(x, caches, place, unseen[image], asked.shape[1])
        logits = guided(prior.head(x).float(), fixed)
        sums = cumulative(logits.flatten(0, 1), fixed["temperature"], fixed["top_k"])
        on: Tensors = {}
        for block, (keys, values) in enumerate(caches):
            on |= {f"keys_{block}": keys, f"values_{block}": values}
        return sums.view(logits.shape), asked, on

    def _positions(self, start: Tensor, end: Tensor) -> Tensor:
        """The positions from ``start`` to before ``end``, both int64 ``(n,)``: int64 ``(n, most)``.

        ``most`` is the largest number of any image, and at least 1; the others are padded with the position
        ``T``.
        """
        most = cast("int", (end - start).amax(dim=0).clamp(min=1).item())
        torch._check(most >= 1)
        torch._check(most <= self.places)
        positions = start[:, None] + torch.arange(most, device=start.device)
        return torch.where(positions < end[:, None], positions, self.places)
