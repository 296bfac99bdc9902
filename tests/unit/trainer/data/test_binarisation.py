import pytest
import torch
from torch import Tensor

from tests.fixtures import tiny_models
from trainer.data.binarisation import drawn, fixed, trained_with


def levels() -> Tensor:
    """Of 20,000 images of three pixels."""
    return torch.tensor([0, 64, 255], dtype=torch.uint8).repeat(20_000, 1)[:, None, None]


def check_shares(binary: Tensor) -> None:
    assert (binary.dtype, set(binary.unique().tolist())) == (torch.float32, {0, 1})
    # Four standard errors of a share of 20,000.
    shares = binary.double().mean(dim=(0, 1, 2)).tolist()
    assert shares == pytest.approx([0, 64 / 255, 1], abs=4 * (0.19 / 20_000) ** 0.5)


def test_a_pixel_is_white_with_its_level_as_the_chance() -> None:
    check_shares(drawn(levels(), torch.Generator().manual_seed(0)))
    torch.manual_seed(0)
    check_shares(drawn(levels()))


def test_what_is_drawn_anew_differs_and_follows_the_generator() -> None:
    images = tiny_models.images(4)
    assert not torch.equal(drawn(images), drawn(images))
    first, again = (drawn(images, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again)


def test_what_is_fixed_has_the_same_chances() -> None:
    """Over images that differ: equal ones are the same by design."""
    images = tiny_models.images(2000)
    binary, chances = fixed(images, 0), images.float() / 255
    assert set(binary.unique().tolist()) == {0, 1}
    count = binary.numel()
    # The variance of a coin's error is p (1 - p), on average a sixth; four standard errors, of either mean.
    assert float((binary - chances).double().mean()) == pytest.approx(0, abs=4 * (1 / 6 / count) ** 0.5)
    centred = (binary - chances).flatten(1)
    neighbours = float((centred[:, 1:] * centred[:, :-1]).double().mean())
    assert neighbours == pytest.approx(0, abs=4 / 6 / count**0.5)


def test_what_is_fixed_hangs_on_the_image_and_the_seed_alone() -> None:
    images = tiny_models.images(8)
    order = torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])
    assert torch.equal(fixed(images[order], 5), fixed(images, 5)[order])
    assert torch.equal(fixed(images[:1], 5), fixed(images, 5)[:1])
    assert not torch.equal(fixed(images, 5), fixed(images, 6))
    nearly = images.clone()
    nearly[0, 0, 0, 0] ^= 1
    assert not torch.equal(fixed(nearly, 5)[0, 0, 1:], fixed(images, 5)[0, 0, 1:])
    assert torch.equal(fixed(nearly, 5)[1:], fixed(images, 5)[1:])


def test_a_model_is_measured_on_images_as_it_saw_them() -> None:
    images = tiny_models.images(4)
    for config in ({"binarise": True}, {"likelihood": "bernoulli", "binarisation": "dynamic"}):
        name, binarise = trained_with(config, seed=6) or pytest.fail("they are grey")
        assert name == "dynamically binarised"
        assert torch.equal(binarise(images), drawn(images, torch.Generator().manual_seed(6)))
    once = {"likelihood": "bernoulli", "binarisation": "fixed", "seed": 2}
    name, binarise = trained_with(once, seed=6) or pytest.fail("they are grey")
    assert name == "binarised once"
    assert torch.equal(binarise(images), fixed(images, 2))
    grey = {"binarise": False, "likelihood": "bernoulli"}, {"binarisation": "fixed", "likelihood": "logistic"}
    assert [trained_with(config, seed=6) for config in ({}, *grey)] == [None, None, None]
