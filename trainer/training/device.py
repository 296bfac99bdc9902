"""Which device and precision a run uses, and why."""

import importlib.util
import logging
import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from service.contract.cpu_count import available_cpus
from trainer.config import RunConfig
from trainer.data import distributed
from trainer.errors import ConfigError

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Machine:
    """The device and precision of a run, in Lightning Fabric's terms, and the reason in words."""

    accelerator: Literal["cpu", "cuda", "mps"]
    precision: Literal["32-true", "bf16-mixed"]
    reason: str

    @property
    def device(self) -> torch.device:
        """The torch device."""
        return torch.device(self.accelerator)

    def fabric(self) -> "Fabric":
        """A Fabric for all processes that train together."""
        # Takes longer to import than torch, and only training needs it.
        from lightning_fabric import Fabric
        from lightning_fabric.strategies.ddp import DDPStrategy

        # It announces the precision, which the trainer does itself, with the reason.
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        here = distributed.local_world_size()
        if distributed.world_size() == 1:
            return Fabric(accelerator=self.accelerator, devices=1, precision=self.precision)
        fabric = Fabric(
            accelerator=self.accelerator,
            devices=here,
            num_nodes=distributed.world_size() // here,
            precision=self.precision,
            # Every process computes the same buffers, such as a codebook.
            strategy=DDPStrategy(forward_sync_buffers=False),
        )
        fabric.launch()
        return fabric


def choose(config: RunConfig) -> Machine:
    """The machine for a config.

    Raises ConfigError if it asks for a device that is not here, or to compile without what that needs.
    """
    present: dict[Literal["cpu", "cuda", "mps"], bool] = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if config.device == "auto":
        accelerator = next(name for name, here in present.items() if here)
        reason = "the fastest device here"
    else:
        accelerator = config.device
        reason = "as asked"
    if not present[accelerator]:
        here = ", ".join(name for name, is_here in present.items() if is_here)
        raise ConfigError(f"device is {config.device!r}, but torch {torch.__version__} finds only: {here}")
    if config.compile:
        _check_compilation(config, accelerator)
    if config.precision == "32":
        return Machine(accelerator, "32-true", f"{_title(accelerator)} ({reason}), float32 as asked")
    if config.precision == "bf16":
        return Machine(accelerator, "bf16-mixed", f"{_title(accelerator)} ({reason}), bf16 autocast as asked")
    feature = _bf16_feature(accelerator)
    if feature:
        return Machine(accelerator, "bf16-mixed", f"{_title(accelerator)} ({reason}), bf16 by {feature}")
    return Machine(accelerator, "32-true", f"{_title(accelerator)} ({reason}), float32: no fast bf16 here")


def _check_compilation(config: RunConfig, accelerator: str) -> None:
    """Raise ConfigError unless a step can be compiled, and torch.compile has what it needs for a device."""
    if adversarial := getattr(config, "adversarial", 0):
        raise ConfigError(
            f"compile is true, but adversarial is {adversarial:g}, which takes several backward passes "
            f"through a step, and a compiled step has one: give --no-compile"
        )
    if accelerator == "mps":
        raise ConfigError("compile is true, but is for cpu and cuda, not for mps: give --no-compile")
    if (processes := distributed.requested_world_size()) > 1:
        raise ConfigError(
            f"compile is true, but it is for one process, not for {processes}: give --no-compile"
        )
    compiler = os.environ.get("CXX", "").strip() or ("clang++" if sys.platform == "darwin" else "g++")
    header = Path(sysconfig.get_path("include"), "Python.h")
    needed = {
        f"a C++ compiler ({compiler}, or the one that CXX names)": shutil.which(compiler.split()[0]),
        f"the headers of Python ({header})": header.is_file(),
    }
    if accelerator == "cuda":
        needed["the package triton"] = importlib.util.find_spec("triton") is not None
    if missing := [what for what, found in needed.items() if not found]:
        raise ConfigError(
            f"compile is true, but this is not installed: {', '.join(missing)}. "
            "To train without: --no-compile"
        )


def limit_threads() -> None:
    """Let torch use no more threads than this process has CPUs: torch ignores the limit of a container."""
    torch.set_num_threads(min(torch.get_num_threads(), available_cpus()))


def _title(accelerator: str) -> str:
    if accelerator == "cuda":
        return torch.cuda.get_device_name()
    if accelerator == "cpu":
        return f"CPU with {torch.get_num_threads()} threads"
    return "Apple GPU"


def _bf16_feature(accelerator: str) -> str | None:
    """What makes bf16 faster than float32 on the device; None if nothing does."""
    if accelerator == "cuda":
        major, minor = torch.cuda.get_device_capability()
        return f"compute capability {major}.{minor}" if major >= 8 else None
    if accelerator == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return next((name for name in ("amx_bf16", "avx512_bf16") if capabilities.get(name)), None)
    return None
