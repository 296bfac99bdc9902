from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from trainer.models.layers.convolutional import (
    Decoder,
    Encoder,
    PixelShuffle,
    ResidualBlock,
    SelfAttention,
    Upsampling,
    widths,
)

NET: dict[str, Any] = {"stem": 8, "trunk": 16, "hidden": 8, "blocks": 2}


def test_a_residual_block_starts_by_adding_nothing_but_its_bias() -> None:
    block, x = ResidualBlock(4, 8), torch.randn(2, 4, 5, 5)
    bias = block.state_dict()["mix.bias"]
    assert torch.equal(block(x), x + bias[:, None, None])


def test_a_residual_block_is_never_wider_inside() -> None:
    assert ResidualBlock(8, 64).gather.out_channels == 8


@given(st.integers(8, 64), st.integers(8, 512), st.integers(1, 5))
def test_widths_go_from_stem_to_trunk(stem: int, trunk: int, halvings: int) -> None:
    steps = widths(stem, trunk, 2**halvings)
    assert len(steps) == halvings
    assert steps[-1] == trunk
    assert all(width >= 8 for width in steps)
    assert halvings == 1 or abs(steps[0] - stem) <= 4
    inner = steps[:-1]
    assert inner == sorted(inner, reverse=trunk < stem)


def test_widths_grow_in_even_ratios() -> None:
    assert widths(32, 128, 4) == [32, 128]
    assert widths(32, 128, 8) == [32, 64, 128]


@pytest.mark.parametrize("stride", [1, 3, 12])
def test_a_stride_is_a_power_of_two(stride: int) -> None:
    with pytest.raises(ValueError, match=f"stride of {stride} is no power of two"):
        widths(8, 16, stride)


UPSAMPLINGS: list[Upsampling] = ["transposed", "nearest", "shuffle"]


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
@pytest.mark.parametrize("stride", [2, 4, 8])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_grid_is_smaller_by_the_stride_and_the_decoder_undoes_it(
    stride: int, channels: int, upsampling: Upsampling
) -> None:
    x = torch.randn(2, channels, 3 * stride, 5 * stride)
    grid = Encoder(channels, 6, stride=stride, **NET)(x)
    assert grid.shape == (2, 6, 3, 5)
    assert Decoder(channels, 6, stride=stride, **NET, upsampling=upsampling)(grid).shape == x.shape


def test_nearest_repeats_pixels_and_transposed_learns_how() -> None:
    decoders = {name: Decoder(1, 6, stride=4, **NET, upsampling=name) for name in UPSAMPLINGS}
    layers = {name: {type(layer) for layer in decoder} for name, decoder in decoders.items()}
    assert torch.nn.ConvTranspose2d not in layers["nearest"]
    assert torch.nn.Upsample not in layers["transposed"]
    # With convolutions that pass the first channel on, a cell is a square of the picture.
    decoder = decoders["nearest"]
    for parameter in decoder.parameters():
        parameter.detach().zero_()
    for layer in decoder:
        if isinstance(layer, torch.nn.Conv2d):
            layer.weight.detach()[0, 0, 1, 1] = 1
    grid = torch.rand(1, 6, 2, 3)
    expected = grid[:, :1].repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert torch.equal(decoder(grid), expected)


def test_a_decoder_of_before_there_was_a_choice_fits() -> None:
    """Checkpoints name its layers by their places."""
    names = Decoder(1, 6, stride=4, **NET).state_dict().keys()
    places = {name.split(".")[0] for name in names}
    assert places == {"0", "1", "2", "4", "5", "7"}


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
def test_every_parameter_takes_part(upsampling: Upsampling) -> None:
    encoder, decoder = (
        Encoder(1, 6, stride=4, **NET),
        Decoder(1, 6, stride=4, **NET, upsampling=upsampling),
    )
    for block in (m for net in (encoder, decoder) for m in net.modules() if isinstance(m, ResidualBlock)):
        torch.nn.init.ones_(block.mix.weight)
    decoder(encoder(torch.randn(2, 1, 8, 8))).square().sum().backward()
    for name, parameter in [*encoder.named_parameters(), *decoder.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def rows_behind(net: nn.Sequential, x: Tensor, first: int, last: int) -> list[int]:
    """The rows of the input that the output's rows from ``first`` to ``last`` depend on."""
    for parameter in net.double().parameters():
        # All positive, so that no ReLU is shut and no two paths cancel.
        parameter.detach().uniform_(0.5, 1).div_(parameter[0].numel())
    x = x.double().requires_grad_()
    (gradient,) = torch.autograd.grad(net(x)[:, :, first : last + 1].sum(), x)
    return gradient.sum(dim=(0, 1, 3)).nonzero().flatten().tolist()


CONFIGS = {"halvings": st.integers(1, 4), "blocks": st.integers(1, 3), "stage_blocks": st.integers(1, 2)}


@given(**CONFIGS)
def test_the_halo_of_the_encoder_is_what_a_cell_depends_on(
    halvings: int, blocks: int, stage_blocks: int
) -> None:
    stride = 2**halvings
    net = Encoder(1, 1, stride=stride, stem=8, trunk=8, hidden=2, blocks=blocks, stage_blocks=stage_blocks)
    tiling = net.tiling()
    assert tiling is not None
    middle = tiling.halo + 1
    found = rows_behind(net, torch.rand(1, 1, (2 * middle + 1) * stride, stride), middle, middle)
    assert len(found) == tiling.receptive_field == found[-1] - found[0] + 1
    assert max(middle - found[0] // stride, found[-1] // stride - middle) == tiling.halo


@given(**CONFIGS, upsampling=st.sampled_from(UPSAMPLINGS))
def test_the_halo_of_the_decoder_is_what_the_pixels_of_a_cell_depend_on(
    halvings: int, blocks: int, stage_blocks: int, upsampling: Upsampling
) -> None:
    stride = 2**halvings
    net = Decoder(
        1,
        1,
        stride=stride,
        stem=8,
        trunk=8,
        hidden=2,
        blocks=blocks,
        stage_blocks=stage_blocks,
        upsampling=upsampling,
    )
    tiling = net.tiling()
    assert tiling is not None
    middle = tiling.halo + 1
    grid, pixels = torch.rand(1, 1, 2 * middle + 1, 1), range(middle * stride, (middle + 1) * stride)
    found = rows_behind(net, grid, pixels[0], pixels[-1])
    assert max(middle - found[0], found[-1] - middle) == tiling.halo
    assert max(len(rows_behind(net, grid, pixel, pixel)) for pixel in pixels) == tiling.receptive_field


def test_the_halo_of_an_unknown_layer_is_not_guessed() -> None:
    net = Encoder(1, 4, stride=2, **NET)
    net.append(nn.GroupNorm(1, 4))
    with pytest.raises(TypeError, match="what the outputs of GroupNorm depend on"):
        net.tiling()


def test_a_pixel_shuffle_starts_without_a_checkerboard() -> None:
    picture = PixelShuffle(3, 2)(torch.randn(1, 3, 4, 5))
    assert picture.shape == (1, 2, 8, 10)
    cells = picture.unflatten(2, (4, 2)).unflatten(4, (5, 2))
    torch.testing.assert_close(cells, cells[:, :, :, :1, :, :1].expand_as(cells))


def test_attention_is_to_all_cells_and_ends_tiling() -> None:
    encoder, decoder = (
        Encoder(1, 6, stride=4, **NET, attention=True),
        Decoder(6, 1, stride=4, **NET, attention=True),
    )
    assert encoder.tiling() is None
    assert decoder.tiling() is None
    assert encoder.untiled == decoder.untiled is not None
    attention, x = SelfAttention(4), torch.randn(1, 4, 3, 3, requires_grad=True)
    assert torch.equal(attention(x), x)
    torch.nn.init.ones_(attention.join.weight)
    attention(x)[0, 0, 0, 0].backward()
    assert x.grad is not None
    assert (x.grad.abs().sum(dim=1) > 0).all()
