import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trainer.models.layers.masked import MaskedConv, MaskedMLP


def move(made: nn.Module) -> None:
    """Away from a start at zero, so that none of its weights is."""
    for parameter in made.requires_grad_(False).parameters():
        parameter.add_(torch.randn_like(parameter))


def convolution(*, strict: bool, channels: int = 2, outputs: int = 3) -> MaskedConv:
    torch.manual_seed(0)
    made = MaskedConv(channels, outputs, strict=strict)
    move(made)
    return made


def network(dim: int, width: int, layers: int, *, backwards: bool) -> MaskedMLP:
    torch.manual_seed(0)
    made = MaskedMLP(dim, width, layers, backwards=backwards)
    move(made)
    return made.double()


def given_to(made: MaskedMLP, dim: int, count: int = 1) -> tuple[Tensor, Tensor]:
    """Inputs and a context, as random as they come."""
    generator = torch.Generator().manual_seed(1)
    of_hidden = sum(len(bias) for bias in made.biases) - dim
    inputs, context = (
        torch.randn(count, size, generator=generator, dtype=torch.float64) for size in (dim, of_hidden)
    )
    return inputs, context


def jacobians(made: MaskedMLP, dim: int, *, backwards: bool) -> tuple[Tensor, Tensor]:
    """Of the outputs by inputs, ``(d, d)``, and by context: both in the network's order."""
    by_inputs, by_context = torch.func.jacrev(made, argnums=(0, 1))(*given_to(made, dim))
    by_inputs, by_context = by_inputs[0, :, 0], by_context[0, :, 0]
    return (by_inputs.flip(0, 1), by_context.flip(0)) if backwards else (by_inputs, by_context)


# Convolutions over pixels.


def is_seen(height: int, width: int, *, strict: bool) -> Tensor:
    """Which pixel, the last two axes, is to be seen by which, the first two."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    down, aside = rows[:, :, None, None] - rows, columns[:, :, None, None] - columns
    above = (down == 1) & (aside.abs() <= 1)
    left = (down == 0) & (aside == 1)
    own = (down == 0) & (aside == 0)
    return above | left if strict else above | left | own


@pytest.mark.parametrize("strict", [True, False])
@settings(deadline=None, max_examples=20)
@given(height=st.integers(1, 5), width=st.integers(1, 5), channels=st.integers(1, 3))
def test_a_pixel_sees_its_neighbours_before_it_and_no_others(
    strict: bool, height: int, width: int, channels: int
) -> None:
    layer = convolution(strict=strict, channels=channels)
    by_pixels = torch.func.jacrev(layer)(torch.randn(1, channels, height, width))[0, :, :, :, 0]
    expected = is_seen(height, width, strict=strict)
    # Of every output channel by every input channel.
    assert torch.equal(by_pixels != 0, expected[None, :, :, None].expand_as(by_pixels))


def test_the_weights_of_a_pixel_itself_say_the_same_as_the_convolution() -> None:
    layer, pixel = convolution(strict=False), torch.randn(2)
    image = torch.zeros(1, 2, 4, 5)
    image[0, :, 2, 3] = pixel
    torch.testing.assert_close(pixel @ layer.weight_own() + layer.bias, layer(image)[0, :, 2, 3])


def test_a_strict_convolution_has_no_weights_of_a_pixel_itself() -> None:
    assert not convolution(strict=True).weight_own().any()


def test_what_is_masked_is_not_trained() -> None:
    layer = MaskedConv(2, 3, strict=True)
    layer(torch.randn(1, 2, 4, 5)).square().sum().backward()
    assert layer.weight.grad is not None
    assert torch.equal(layer.weight.grad != 0, layer.mask.expand(3, 2, 2, 3))


# Linear layers over codes.

sizes = st.tuples(st.integers(1, 9), st.integers(1, 12), st.integers(1, 3))


@pytest.mark.parametrize("backwards", [False, True])
@settings(deadline=None, max_examples=40)
@given(size=sizes)
def test_an_output_hangs_on_no_input_but_those_before_it(size: tuple[int, int, int], backwards: bool) -> None:
    made = network(*size, backwards=backwards)
    by_inputs, _ = jacobians(made, size[0], backwards=backwards)
    assert (by_inputs.triu() == 0).all()


@pytest.mark.parametrize("backwards", [False, True])
@settings(deadline=None, max_examples=40)
@given(size=sizes.filter(lambda size: size[1] >= size[0] - 1))
def test_an_output_hangs_on_every_input_before_it(size: tuple[int, int, int], backwards: bool) -> None:
    made = network(*size, backwards=backwards)
    by_inputs, _ = jacobians(made, size[0], backwards=backwards)
    assert torch.equal(by_inputs != 0, torch.ones(size[0], size[0], dtype=torch.bool).tril(-1))


@pytest.mark.parametrize("backwards", [False, True])
def test_with_fewer_units_than_inputs_the_last_output_still_sees_all_before_it(backwards: bool) -> None:
    by_inputs, _ = jacobians(network(8, 4, 2, backwards=backwards), 8, backwards=backwards)
    assert (by_inputs[-1, :-1] != 0).all()


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_context_enters_in_every_hidden_layer(layers: int, backwards: bool) -> None:
    dim, width = 4, 6
    _, by_context = jacobians(network(dim, width, layers, backwards=backwards), dim, backwards=backwards)
    assert by_context.shape == (dim, layers * width)
    assert (by_context[-1] != 0).all()
    # The first output has nothing before it, and so no hidden unit that it may see.
    assert (by_context[0] == 0).all()
    assert all(row.any() for row in by_context[1:])


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("dim", [1, 3, 8])
def test_a_new_one_gives_zeros(dim: int, backwards: bool) -> None:
    made = MaskedMLP(dim, 5, 2, backwards=backwards).double()
    assert (made(*given_to(made, dim, count=7)) == 0).all()
