"""A step of training: the forward pass, the backward pass and the update of the weights.

With ``compile`` the forward and the backward pass of the stage run through torch.compile. It is compiled in
place: the names in its state dict stay, copies of it are not compiled, and neither is an opponent. All
batches of a run have the same size, so that a stage is compiled once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Adamax, AdamW, Optimizer

from trainer.config import Schedule
from trainer.data import distributed
from trainer.data.batches import Batch
from trainer.errors import ConfigError, OutOfMemoryError, shortened
from trainer.models.base import Opposed, Stage, Step

if TYPE_CHECKING:
    from lightning_fabric import Fabric

BETAS = (0.9, 0.99)
# With ``fallback_random`` a compiled step draws the numbers that one draws that is not compiled.
COMPILED: dict[str, Any] = {"backend": "inductor", "options": {"fallback_random": True}}
# How the message of torch begins where a CPU has too little memory, and characters of it that are shown.
ALLOCATOR, MOST_REASON = "DefaultCPUAllocator", 120
# The modules of torch that compile, by which the errors of a compilation are known.
COMPILERS = ("torch._dynamo", "torch._inductor", "torch._functorch")


class TrainingStep:
    """The steps of a stage on a device, by its optimiser.

    - ``compiles``: whether the next step is compiled before it runs
    """

    def __init__(self, stage: Stage, schedule: Schedule, fabric: "Fabric", *, compiled: bool = False) -> None:
        stage.to(memory_format=torch.channels_last)
        self.optimizer = _optimizer(stage, schedule)
        self.opposed = Opposed(stage)
        self.compiles = compiled
        self._clip_norm = schedule.clip_norm
        self._fabric = fabric
        self._module, self._stepper = fabric.setup(self.opposed, self.optimizer)
        if compiled:
            stage.compile(dynamic=False, **COMPILED)

    def __call__(self, batch: Batch, rate: float, done: int) -> Step:
        """Train on a batch at a learning rate, after ``done`` steps.

        Raises ConfigError if the step cannot be compiled.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with compilation_errors():
            step: Step = self._module(batch.images, batch.labels, done)
            self.optimizer.zero_grad(set_to_none=True)
            # Of the processes' gradients the mean is taken, so each weighs as much as its share.
            weight = distributed.share() * distributed.world_size()
            self._fabric.backward(step.loss if weight == 1 else step.loss * weight)
        if self._clip_norm:
            # A norm that is not finite shows in the metrics; a check here would make a GPU wait.
            self._fabric.clip_gradients(
                self._module, self._stepper, max_norm=self._clip_norm, error_if_nonfinite=False
            )
        self._stepper.step()
        self.compiles = False
        return step


@contextmanager
def compilation_errors() -> Iterator[None]:
    """Raise ConfigError, in one line, for what torch.compile raises in the block."""
    try:
        yield
    except RuntimeError as error:
        kinds = [kind for kind in type(error).__mro__ if kind.__module__.startswith(COMPILERS)]
        if not kinds:
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        # Of a C++ compiler's output, what it complains about.
        said = next((line for line in lines if "error:" in line), lines[0] if lines else kinds[0].__name__)
        raise ConfigError(
            f"compile is true, but the step cannot be compiled: {said}. To train without: --no-compile"
        ) from error


@contextmanager
def memory_errors(stage: Stage, schedule: Schedule) -> Iterator[None]:
    """Raise OutOfMemoryError, which names the batch size, for what torch raises in the block."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # On a CPU torch raises no class of its own.
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and ALLOCATOR not in str(error):
            raise
        said = str(error).partition(ALLOCATOR)[2].lstrip(": ") or str(error)
        said = shortened(said, MOST_REASON) or type(error).__name__
        flag = stage.rate_flag.removesuffix("lr")
        raise OutOfMemoryError(
            f"out of memory: {said}. Start a new run with a smaller {flag}batch-size (it is "
            f"{schedule.batch_size}), smaller images or a smaller model"
        ) from error


def _optimizer(stage: Stage, schedule: Schedule) -> Optimizer:
    parameters = [parameter for parameter in stage.parameters() if parameter.requires_grad]
    if schedule.optimizer == "adamax":
        return Adamax(parameters, lr=schedule.lr, betas=BETAS)
    return AdamW(parameters, lr=schedule.lr, betas=BETAS, weight_decay=schedule.weight_decay, fused=True)
