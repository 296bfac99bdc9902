from typing import Any

import pytest
import torch

from tests.fixtures import tiny_models
from trainer.errors import ConfigError
from trainer.training.device import choose, limit_threads


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what torch finds: accelerators, the GPU's compute capability, the CPU's features."""

    def set_up(*, cuda: tuple[int, int] | None = None, mps: bool = False, cpu: tuple[str, ...] = ()) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda is not None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(cpu, True))

    set_up()
    return set_up


@pytest.mark.parametrize(
    ("there", "accelerator", "precision", "reason"),
    [
        ({}, "cpu", "32-true", "no fast bf16 here"),
        ({"cpu": ("avx512_bf16",)}, "cpu", "bf16-mixed", "bf16 by avx512_bf16"),
        ({"cpu": ("amx_bf16", "avx512_bf16")}, "cpu", "bf16-mixed", "bf16 by amx_bf16"),
        ({"cuda": (9, 0)}, "cuda", "bf16-mixed", "NVIDIA H200 (the fastest device here), bf16 by compute"),
        ({"cuda": (7, 5)}, "cuda", "32-true", "no fast bf16 here"),
        ({"mps": True}, "mps", "32-true", "Apple GPU"),
        ({"cuda": (8, 0), "mps": True}, "cuda", "bf16-mixed", "compute capability 8.0"),
    ],
)
def test_auto_is_the_fastest_there_is(
    machine: Any, there: dict[str, Any], accelerator: str, precision: str, reason: str
) -> None:
    machine(**there)
    found = choose(tiny_models.config(device="auto", precision="auto"))
    assert (found.accelerator, found.precision) == (accelerator, precision)
    assert found.device.type == accelerator
    assert reason in found.reason


@pytest.mark.parametrize(("precision", "expected"), [("32", "32-true"), ("bf16", "bf16-mixed")])
def test_what_is_asked_for_is_done(machine: Any, precision: str, expected: str) -> None:
    machine(cuda=(9, 0), cpu=("amx_bf16",))
    found = choose(tiny_models.config(device="cpu", precision=precision))
    assert (found.accelerator, found.precision) == ("cpu", expected)
    assert "as asked" in found.reason


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_an_error(machine: Any, device: str) -> None:
    with pytest.raises(ConfigError, match=rf"device is '{device}', but torch .* finds only: cpu"):
        choose(tiny_models.config(device=device))


@pytest.mark.parametrize(("cpus", "before", "after"), [(2, 8, 2), (8, 2, 2), (1, 1, 1)])
def test_torch_has_no_more_threads_than_there_are_cpus(
    monkeypatch: pytest.MonkeyPatch, cpus: int, before: int, after: int
) -> None:
    chosen: list[int] = []
    monkeypatch.setattr("trainer.training.device.available_cpus", lambda: cpus)
    monkeypatch.setattr(torch, "get_num_threads", lambda: before)
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    limit_threads()
    assert chosen == [after]


@pytest.mark.parametrize(
    ("device", "missing"),
    [
        ("cpu", r"a C\+\+ compiler \(no-such, "),
        ("cuda", r"a C\+\+ compiler \(.*the package triton"),
        ("mps", "not for mps"),
    ],
)
def test_to_compile_needs_a_compiler(
    machine: Any, monkeypatch: pytest.MonkeyPatch, device: str, missing: str
) -> None:
    machine(cuda=(9, 0), mps=True)
    monkeypatch.setenv("CXX", "no-such")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=f"compile is true, but .*{missing}.*--no-compile"):
        choose(tiny_models.config(device=device, compile=True))


def test_one_process_alone_compiles(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.data.distributed.requested_world_size", lambda: 2)
    with pytest.raises(ConfigError, match="is for one process, not for 2"):
        choose(tiny_models.config(compile=True))


def test_a_step_against_a_discriminator_is_not_compiled() -> None:
    with pytest.raises(ConfigError, match=r"adversarial is 0\.5, which takes .* give --no-compile"):
        choose(tiny_models.config(adversarial=0.5, compile=True))
