"""Langevin chains down an energy, unadjusted and with a Metropolis correction, each one graph."""

from abc import abstractmethod
from typing import cast

import torch
from torch import Tensor

from trainer.models.gaussian.energy import Ratio, Valued, energy
from trainer.models.onnx_scan import Axes, Chain, Loop, Tensors


class _EnergyChain(Chain):
    """A chain of codes towards low energy.

    Inputs, for ``n`` chains of ``T`` steps and ``d`` dimensions:

    - ``start``: float32 ``(n, d)``, draws from the prior
    - ``noise``: float32 ``(n, T, d)``, standard normal
    - further noise of a subclass
    - ``step_size``: float32 scalar, epsilon
    - ``every``: int64 scalar, emit every so many states; 0 for none

    The outputs begin with ``codes``, float32 ``(n, d)``, and ``states``, ``(n, T // every, d)``.
    """

    axes: dict[str, Axes]

    def __init__(self, ratio: Ratio) -> None:
        super().__init__()
        self.ratio = ratio
        self.axes = {
            "codes": {0: "n"},
            "noise": {0: "T", 1: "n"},
            "state": {0: "T", 1: "n"},
        }

    @abstractmethod
    def gap(self, inputs: tuple[Tensor, ...], states: Tensor) -> float:
        """The gap between states, ``(n, T, d)``, and those of these inputs, each given the state before it.

        Relative to the larger of a state's values and 1, the prior's standard deviation.
        """

    def _states(self, emitted: Tensors, fixed: Tensors) -> Tensor:
        states, every = emitted["state"], fixed["every"]
        steps = torch.ones_like(states[:, 0, 0]).sum().long()
        kept = cast("int", torch.where(every > 0, steps // every.clamp(min=1), 0).item())
        torch._check(kept >= 0)
        numbers = torch.arange(1, kept + 1, device=states.device)
        return states.index_select(0, numbers * every - 1).transpose(0, 1)


class Langevin(_EnergyChain):
    """Unadjusted Langevin: z <- z - epsilon / 2 grad E(z) + sqrt(epsilon) noise (2010.02917, sec. 4).

    What it samples has a bias that falls with epsilon. The outputs are ``codes``, ``states`` and ``energy``,
    float32 ``(n,)``, that of the codes.
    """

    def start(self, *inputs: Tensor) -> Loop:
        """From draws of the prior."""
        start, noise, step_size, every = inputs
        return Loop(
            carried={"codes": start},
            slices={"noise": noise.transpose(0, 1) * step_size.sqrt()},
            fixed={"half_step": step_size / 2, "every": every},
        )

    def step(self, carried: Tensors, sliced: Tensors, fixed: Tensors) -> tuple[Tensors, Tensors]:
        """One step down the energy, and noise."""
        codes, half = carried["codes"], fixed["half_step"]
        # The energy's gradient is codes - gradient of the ratio.
        drift = self.ratio.with_gradient(codes).gradient * half
        codes = codes * (1 - half) + (drift + sliced["noise"])
        return {"codes": codes}, {"state": codes}

    def gap(self, inputs: tuple[Tensor, ...], states: Tensor) -> float:
        """See the base."""
        loop = self.start(*inputs)
        noise = loop.slices["noise"].transpose(0, 1)
        before = _before(inputs[0], states)
        carried, _ = self.step({"codes": before}, {"noise": noise.flatten(0, 1)}, loop.fixed)
        return float(_distance(states.flatten(0, 1), carried["codes"]).max())

    def finish(self, carried: Tensors, emitted: Tensors, fixed: Tensors, /) -> tuple[Tensor, ...]:
        """The last state, those on the way, and the energy."""
        codes = carried["codes"]
        return codes, self._states(emitted, fixed), energy(self.ratio, codes).value


class Metropolis(_EnergyChain):
    """Langevin whose steps are proposals, taken or not: MALA (Roberts and Tweedie, 1996, sec. 1.4.2).

    A step's further input is ``uniform``, float32 ``(n, T)`` in [0, 1). Without a bias in the limit. The
    outputs are ``codes``, ``states``, ``energy`` and ``acceptance_rate``, the share of proposals that were
    taken, both float32 ``(n,)``.
    """

    def __init__(self, ratio: Ratio) -> None:
        super().__init__(ratio)
        self.axes |= {
            "uniform": {0: "T", 1: "n"},
            "energies": {0: "n"},
            "gradients": {0: "n"},
            "taken": {0: "n"},
        }

    def start(self, *inputs: Tensor) -> Loop:
        """From draws of the prior."""
        start, noise, uniform, step_size, every = inputs
        begin = energy(self.ratio, start)
        return Loop(
            carried={
                "codes": start,
                "energies": begin.value,
                "gradients": begin.gradient,
                "taken": torch.zeros_like(begin.value),
            },
            slices={"noise": noise.transpose(0, 1), "uniform": uniform.transpose(0, 1)},
            fixed={"step_size": step_size, "every": every},
        )

    def step(self, carried: Tensors, sliced: Tensors, fixed: Tensors) -> tuple[Tensors, Tensors]:
        """A proposal, and whether it is taken."""
        proposal, proposed, chance = self._proposed(carried, sliced, fixed)
        # A uniform number of 0 is below any chance, as it should be.
        taken = sliced["uniform"].log() < chance
        codes = torch.where(taken[:, None], proposal, carried["codes"])
        on = {
            "codes": codes,
            "energies": torch.where(taken, proposed.value, carried["energies"]),
            "gradients": torch.where(taken[:, None], proposed.gradient, carried["gradients"]),
            "taken": carried["taken"] + taken.float(),
        }
        return on, {"state": codes}

    def gap(self, inputs: tuple[Tensor, ...], states: Tensor) -> float:
        """See the base; a proposal may be taken or not where its chance is this close to the noise."""
        loop = self.start(*inputs)
        before = _before(inputs[0], states)
        begin = energy(self.ratio, before)
        carried = {"codes": before, "energies": begin.value, "gradients": begin.gradient}
        sliced = {name: rows.transpose(0, 1).flatten(0, 1) for name, rows in loop.slices.items()}
        proposal, _, chance = self._proposed(carried, sliced, loop.fixed)
        threshold = sliced["uniform"].log()
        taken, kept = (_distance(states.flatten(0, 1), other) for other in (proposal, before))
        expected = torch.where(threshold < chance, taken, kept)
        other = torch.where(threshold < chance, kept, taken)
        margin = (threshold - chance).abs() / chance.abs().clamp(min=1)
        return float(torch.minimum(expected, torch.maximum(other, margin)).max())

    def _proposed(self, carried: Tensors, sliced: Tensors, fixed: Tensors) -> tuple[Tensor, Valued, Tensor]:
        """The proposal, its energy, and the logarithm of the chance that it is taken."""
        step_size, noise = fixed["step_size"], sliced["noise"]
        proposal = carried["codes"] - step_size / 2 * carried["gradients"] + step_size.sqrt() * noise
        proposed = energy(self.ratio, proposal)
        back = carried["codes"] - proposal + step_size / 2 * proposed.gradient
        # log q(z | z') - log q(z' | z); of the way there, only the noise is left.
        ways = noise.square().sum(dim=1) / 2 - back.square().sum(dim=1) / (2 * step_size)
        return proposal, proposed, carried["energies"] - proposed.value + ways

    def finish(self, carried: Tensors, emitted: Tensors, fixed: Tensors, /) -> tuple[Tensor, ...]:
        """The last state, those on the way, its energy, and how many proposals were taken."""
        states = emitted["state"]
        steps = torch.ones_like(states[:, 0, 0]).sum()
        return carried["codes"], self._states(emitted, fixed), carried["energies"], carried["taken"] / steps


def _before(start: Tensor, states: Tensor) -> Tensor:
    """The state before each of ``states``, ``(n, T, d)``, as rows: ``(n * T, d)``."""
    return torch.cat([start[:, None], states[:, :-1]], dim=1).flatten(0, 1)


def _distance(states: Tensor, others: Tensor) -> Tensor:
    """The largest relative difference of each row: two ``(m, d)`` to ``(m,)``."""
    return ((states - others).abs() / others.abs().clamp(min=1)).amax(dim=1)
