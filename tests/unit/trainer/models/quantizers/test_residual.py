import math

import pytest
import torch
from torch import Tensor

from tests.unit.trainer.models.quantizers.grids import grid, rows_of
from trainer.models.quantizers import Codebook, LearnedCodebook, Residual, SimVQ, perplexity, usage
from trainer.models.quantizers.lookup import nearest

SIZE, DIM, LEVELS = 8, 4, 3


def residual(*, dropout: float = 0.0, rotate: bool = False, simvq: bool = False) -> Residual:
    torch.manual_seed(1)
    levels: list[Codebook] = [
        SimVQ(SIZE, DIM) if simvq else LearnedCodebook(SIZE, DIM, update="ema", decay=0.9, restart_below=0.0)
        for _ in range(LEVELS)
    ]
    made = Residual(levels, dropout=dropout, rotate=rotate)
    made.start(torch.randn(64, DIM), batch_rows=30)
    return made


def by_hand(q: Residual, z: Tensor) -> Tensor:
    rest, codes = rows_of(z), []
    for vectors in q.vectors():
        codes.append(nearest(rest, vectors))
        rest = rest - vectors[codes[-1]]
    return torch.stack(codes, dim=1).view(len(z), *z.shape[2:], LEVELS)


@pytest.mark.parametrize("simvq", [False, True])
def test_each_level_looks_up_what_those_before_it_left(simvq: bool) -> None:
    q, z = residual(simvq=simvq).eval(), grid()
    quantized, served = q(z), q.serving()
    assert torch.equal(quantized.codes, by_hand(q, z))
    for encoded in (q.encode(z), served.encode(z), served(z).codes):
        assert torch.equal(encoded, quantized.codes)
    torch.testing.assert_close(q.embed(quantized.codes), quantized.vectors)
    torch.testing.assert_close(served.embed(quantized.codes), quantized.vectors)
    assert served.codebook.shape == (LEVELS, SIZE, DIM)


def test_each_level_comes_nearer() -> None:
    q, z = residual().eval(), grid()
    codes = q.encode(z)
    errors = [(q.embed(codes[..., :count]) - z).square().mean() for count in range(1, LEVELS + 1)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 2
    for count in range(1, LEVELS + 1):
        first = q.embed(codes[..., :count])
        torch.testing.assert_close(q.embed(codes, torch.tensor(count)), first)
        torch.testing.assert_close(q.embed(codes[..., :count], torch.tensor(LEVELS)), first)


@pytest.mark.parametrize("rotate", [False, True])
def test_the_gradient_of_the_sum_is_passed_on_once(rotate: bool) -> None:
    q, z = residual(rotate=rotate).eval(), grid().requires_grad_()
    (found,) = torch.autograd.grad(q(z).vectors.sum(), z)
    if rotate:
        assert not torch.equal(found, torch.ones_like(z))
        assert 0 < found.norm() < 3 * math.sqrt(z.numel())
    else:
        assert torch.equal(found, torch.ones_like(z))


def test_the_commitment_loss_is_the_sum_over_the_levels() -> None:
    q, z = residual().eval(), grid()
    quantized = q(z)
    expected = sum(
        (q.embed(quantized.codes[..., :count]) - z).square().mean() for count in range(1, LEVELS + 1)
    )
    torch.testing.assert_close(quantized.commitment_loss, expected)
    assert quantized.codebook_loss is None


def test_with_dropout_some_images_have_their_first_levels_and_every_level_learns() -> None:
    q, z = residual(dropout=1.0), grid(batch=60)
    before, codes = q.vectors(), q.encode(z)
    vectors = q(z).vectors
    parts = [level[codes[..., place].flatten()] for place, level in enumerate(before)]
    sums = torch.stack(parts).cumsum(dim=0).view(LEVELS, 60, 2, 5, DIM).permute(0, 1, 4, 2, 3)
    kept = torch.stack([torch.isclose(vectors, each).flatten(1).all(dim=1) for each in sums])
    assert (kept.sum(dim=0) == 1).all()
    assert (kept.sum(dim=1) >= 10).all()
    assert all(not torch.equal(*pair) for pair in zip(before, q.vectors(), strict=True))
    torch.testing.assert_close(q.eval()(z).vectors, q.embed(q.encode(z)))


def test_the_gap_is_of_the_level_where_codes_differ() -> None:
    q, z = residual().eval(), grid()
    codes = q.encode(z)
    assert (q.gap(z, codes) == 0).all()
    codes[0, 0, 0, 1] = (codes[0, 0, 0, 1] + 1) % SIZE
    gaps = q.gap(z, codes)
    assert gaps[0, 0, 0, 0] == 0
    assert gaps[0, 0, 0, 1] > 0
    assert (gaps[1:] == 0).all()


def test_of_zeros_each_code_of_zeros_is_the_nearest() -> None:
    level, z = Codebook(2, DIM), torch.zeros(1, DIM, 1, 1)
    assert level.gap(z, torch.ones(1, 1, 1)).tolist() == [[[0.0]]]
    both = Residual([level, level], dropout=0.0, rotate=False)
    assert both.gap(z, torch.ones(1, 1, 1, 2)).tolist() == [[[[0.0, 0.0]]]]


def test_uses_are_counted_by_level() -> None:
    counts = residual().eval()(grid()).counts
    assert counts.shape == (LEVELS, SIZE)
    assert (counts.sum(dim=1) == 30).all()
    assert perplexity(torch.tensor([[1.0, 1, 0, 0], [1, 1, 1, 1]])) == pytest.approx(math.sqrt(2 * 4))
    assert usage(torch.tensor([[1.0, 1, 0, 0], [1, 1, 1, 1]])) == 0.75
