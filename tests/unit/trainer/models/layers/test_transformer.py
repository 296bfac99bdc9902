import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.models.layers import transformer
from trainer.models.layers.transformer import SHORT, Block, CausalTransformer

# The same sums of float32 products in another order, through norms that bring them back to about 1.
TOLERANCE = 1e-5


def small(*, width: int = 12, blocks: int = 2, heads: int = 3, dropout: float = 0.0) -> CausalTransformer:
    """A transformer whose every part counts: at its start a new one adds next to nothing."""
    torch.manual_seed(0)
    made = CausalTransformer(width, blocks=blocks, heads=heads, dropout=dropout)
    for parameter in made.parameters():
        parameter.detach().add_(0.3 * torch.randn_like(parameter))
    return made.eval()


def sequence(batch: int, length: int, width: int = 12, seed: int = 1) -> Tensor:
    return torch.randn(batch, length, width, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@settings(deadline=None, max_examples=30)
@given(length=st.integers(1, 9), changed=st.integers(0, 8), seed=st.integers(0, 2**31))
def test_no_position_sees_a_later_one(length: int, changed: int, seed: int) -> None:
    changed %= length
    net, x = small(), sequence(2, length, seed=seed)
    other = x.clone()
    other[:, changed] = sequence(2, 1, seed=seed + 1)[:, 0]
    before, after = net(x), net(other)
    torch.testing.assert_close(after[:, :changed], before[:, :changed], rtol=0, atol=TOLERANCE)
    # It and each one after it do see it.
    assert ((after - before)[:, changed:].abs().amax(dim=2) > 1e-3).all()


@torch.no_grad()
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (3, 7), (2, 20)])
def test_step_by_step_it_is_the_same(batch: int, length: int, heads: int) -> None:
    net, x = small(heads=heads), sequence(batch, length)
    caches, rows = net.caches(batch, length), torch.arange(batch)
    assert [part.shape for part in caches[0]] == [(batch, length, 12 // heads)] * 2
    steps = []
    for position in range(length):
        out, caches = net.step(x[:, position], caches, torch.tensor(position), rows)
        steps.append(out)
    torch.testing.assert_close(torch.stack(steps, dim=1), net(x), rtol=TOLERANCE, atol=TOLERANCE)


@torch.no_grad()
def test_a_step_leaves_the_caches_it_was_given() -> None:
    net = small()
    caches = net.caches(2, 3)
    _, carried = net.step(sequence(2, 1)[:, 0], caches, torch.tensor(1), torch.arange(2))
    assert all(not part.any() for cache in caches for part in cache)
    for part in (part for cache in carried for part in cache):
        assert part[:, 1].all()
        assert not part[:, [0, 2]].any()


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 2, 17])
def test_both_ways_to_attend_agree(length: int) -> None:
    queries = torch.randn(2, 3, length, 4)
    keys, values = torch.randn(2, 2, length, 4)
    torch.testing.assert_close(
        transformer._attend_briefly(queries, keys, values),
        transformer._attend(queries, keys, values),
        rtol=TOLERANCE,
        atol=TOLERANCE,
    )


@torch.no_grad()
def test_attention_is_what_1706_03762_says() -> None:
    queries, keys, values = torch.randn(1, 2, 5, 4), torch.randn(1, 5, 4), torch.randn(1, 5, 4)
    found = transformer._attend(queries, keys, values)
    for head in range(2):
        for position in range(5):
            seen = slice(position + 1)
            weights = (keys[0, seen] @ queries[0, head, position] / 4**0.5).softmax(dim=0)
            torch.testing.assert_close(found[0, head, position], weights @ values[0, seen])


@pytest.mark.parametrize(("length", "brief"), [(SHORT, True), (SHORT + 1, False)])
def test_long_sequences_are_left_to_the_fused_kernel(
    monkeypatch: pytest.MonkeyPatch, length: int, brief: bool
) -> None:
    other = "_attend" if brief else "_attend_briefly"
    monkeypatch.setattr(transformer, other, lambda *_: pytest.fail(f"{other} was taken"))
    assert small(blocks=1)(sequence(1, length)).shape == (1, length, 12)


def test_the_heads_divide_the_width() -> None:
    with pytest.raises(ValueError, match="a width of 12 is no multiple of 5 heads"):
        CausalTransformer(12, blocks=1, heads=5, dropout=0)


def test_all_heads_share_one_key_and_one_value() -> None:
    assert Block(12, 3, 0).project.out_features == 12 + 2 * 4


@torch.no_grad()
def test_dropout_falls_in_training_alone() -> None:
    net, x = small(dropout=0.5), sequence(2, 5)
    assert torch.equal(net(x), net(x))
    torch.testing.assert_close(net(x), small()(x))
    net.train()
    assert not torch.equal(net(x), net(x))


@torch.no_grad()
def test_dropout_falls_on_all_that_is_added() -> None:
    block, x = Block(12, 3, dropout=1.0), sequence(2, 5)
    assert torch.equal(block.train()(x), x)
    assert not torch.equal(block.eval()(x), x)


@torch.no_grad()
@pytest.mark.parametrize("blocks", [1, 16])
def test_the_deeper_the_less_each_block_adds_at_the_start(blocks: int) -> None:
    torch.manual_seed(0)
    net = CausalTransformer(64, blocks=blocks, heads=4, dropout=0)
    expected = 0.02 / (2 * blocks) ** 0.5
    for block in net.blocks:
        assert isinstance(block, Block)
        for last in (block.join, block.narrow):
            assert float(last.weight.std()) == pytest.approx(expected, rel=0.1)
