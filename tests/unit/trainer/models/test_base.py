from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from service.contract.manifest import ImageSpec
from tests.fixtures import tiny_models
from trainer.models.base import Model, Stage, to_pixels, to_unit

GREY_8 = ImageSpec(channels=1, height=8, width=8)
KINDS: dict[str, Callable[[], Model]] = {
    "vqvae": lambda: tiny_models.model(GREY_8, prior_epochs=1, flips=True),
    "vqvae without a gradient": lambda: tiny_models.model(GREY_8, update="ema", restart_below=0.1),
    "vae": lambda: tiny_models.vae(GREY_8, flips=True, rotations=10),
    "vae, binarised": lambda: tiny_models.vae(GREY_8, likelihood="bernoulli", binarise=True),
    "vlae": lambda: tiny_models.vlae(GREY_8, flips=True),
    "vlae, binarised": lambda: tiny_models.vlae(
        GREY_8, likelihood="bernoulli", binarisation="fixed", free_bits=0.1
    ),
    "ncp": lambda: tiny_models.ncp(GREY_8),
}


def test_every_pixel_value_survives_scaling() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    units = to_unit(levels)
    assert (units[0].item(), units[-1].item()) == (-1, 1)
    assert torch.equal(to_pixels(units), levels)


def test_pixels_are_clamped_and_rounded() -> None:
    units = torch.tensor([-7.0, -0.999, 0.999, 7.0])
    assert to_pixels(units).tolist() == [0, 0, 255, 255]
    assert to_pixels(torch.tensor([0.002])).item() == 128


# A tensor made without a device is on the CPU, and cannot be combined with inputs on a GPU.


class Homeless(TorchFunctionMode):
    """Notes the functions that make a tensor, other than a scalar, of no tensor and for no device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(
        self, func: Callable[..., Any], _types: object, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **kwargs or {})
        given = [*args, *(kwargs or {}).values()]
        given += [part for each in given if isinstance(each, list | tuple) for part in each]
        of_tensors = any(isinstance(each, torch.Tensor | torch.device) for each in given)
        if isinstance(made, torch.Tensor) and made.ndim and not of_tensors:
            self.found.append(func.__name__)
        return made


def test_tensors_that_are_made_anywhere_are_found() -> None:
    with Homeless() as homeless:
        here = torch.arange(3, device=torch.device("cpu"))
        assert len(torch.stack([here, here]) + torch.zeros_like(here) + torch.tensor(1)) == 2
        assert len(torch.arange(3)) == len(torch.rand(3)) == len(torch.tensor([1, 2, 3]))
    assert homeless.found == ["arange", "rand", "tensor"]


def stages(kind: str) -> list[tuple[Stage, torch.Tensor]]:
    """A model and its second stage, if it has one, each with what it is trained on."""
    images, model = tiny_models.images(6, height=8, width=8), KINDS[kind]()
    second = model.second_stage(10)
    return [(model, images), *([(second, second.inputs(images))] if second else [])]


@pytest.mark.parametrize("kind", KINDS)
def test_training_makes_everything_where_its_inputs_are(kind: str) -> None:
    labels = torch.arange(6)
    for stage, inputs in stages(kind):
        with Homeless() as homeless:
            stage.train()(inputs, labels)
        assert homeless.found == []


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_graphs_make_everything_where_their_inputs_are(kind: str) -> None:
    model = KINDS[kind]().eval()
    second = model.second_stage(10)
    for graph in [*model.graphs(), *(second.eval().graphs() if second else [])]:
        with Homeless() as homeless:
            graph.module(*graph.examples)
        assert homeless.found == [], graph.operation
