import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.unit.trainer.models.quantizers.grids import grid, rows_of
from trainer.models.quantizers import LearnedCodebook, MultiScale, SimVQ
from trainer.models.quantizers.lookup import nearest

SIZE, DIM, BATCH = 8, 4, 5
# 2 and 4 do not divide 7: cells of these grids are averages over uneven parts.
GRIDS, ENDS = (1, 2, 4, 7), (1, 5, 21, 70)


def z_of(batch: int = BATCH) -> Tensor:
    return grid(batch=batch, dim=DIM, height=7, width=7)


def multi_scale(*, dropout: float = 0.0, simvq: bool = False) -> MultiScale:
    torch.manual_seed(1)
    shared = (
        SimVQ(SIZE, DIM) if simvq else LearnedCodebook(SIZE, DIM, update="ema", decay=0.9, restart_below=0.0)
    )
    made = MultiScale(GRIDS, shared, dropout=dropout)
    made.start(rows_of(z_of(20)), batch_rows=BATCH * 49)
    return made


def learned(q: MultiScale) -> LearnedCodebook:
    assert isinstance(q.shared, LearnedCodebook)
    return q.shared


def by_hand(z: Tensor, vectors: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Algorithm 1 of 2404.02905, in torch's own interpolations: codes, and the sum after each level."""
    rest, codes, sums = z, [], []
    for side in GRIDS:
        small = F.interpolate(rest, size=(side, side), mode="area")
        codes.append(nearest(rows_of(small), vectors).view(len(z), -1))
        found = F.embedding(codes[-1], vectors).view(len(z), side, side, -1).permute(0, 3, 1, 2)
        rest = rest - F.interpolate(found, size=(7, 7), mode="bicubic")
        sums.append(z - rest)
    return torch.cat(codes, dim=1), sums


@pytest.mark.parametrize("simvq", [False, True])
def test_each_level_looks_up_the_average_of_what_those_before_it_left(simvq: bool) -> None:
    q, z = multi_scale(simvq=simvq).eval(), z_of()
    quantized, served = q(z), q.serving()
    codes, sums = by_hand(z, q.vectors())
    for encoded in (quantized.codes, q.encode(z), served.encode(z), served(z).codes):
        assert torch.equal(encoded, codes)
    torch.testing.assert_close(quantized.vectors, sums[-1])
    assert served.codebook.shape == (SIZE, DIM)
    for count, (end, expected) in enumerate(zip(ENDS, sums, strict=True), start=1):
        torch.testing.assert_close(served.embed(codes[:, :end]), expected)
        torch.testing.assert_close(q.embed(codes, torch.tensor(count)), expected)
        torch.testing.assert_close(q.embed(codes[:, :end], torch.tensor(len(GRIDS))), expected)


def test_it_starts_from_what_every_level_looks_up() -> None:
    q, z = multi_scale().eval(), z_of(20)
    errors = [(q.embed(q.encode(z)[:, :end]) - z).square().mean() for end in ENDS]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.5 * z.square().mean()
    assert q(z).counts.sum() == 20 * ENDS[-1]
    assert float(learned(q).uses.sum()) == pytest.approx(BATCH * ENDS[-1])


def test_the_codebook_learns_once_from_all_levels_and_the_encoder_from_the_decoder() -> None:
    q, z = multi_scale(), z_of().requires_grad_()
    before = q.vectors().clone()
    quantized = q(z)
    assert float(learned(q).steps) == 1
    assert not torch.equal(q.vectors(), before)
    assert torch.equal(quantized.codes, by_hand(z.detach(), before)[0])
    (found,) = torch.autograd.grad(quantized.vectors.sum(), z, retain_graph=True)
    assert torch.equal(found, torch.ones_like(z))
    assert quantized.commitment_loss is not None
    (pull,) = torch.autograd.grad(quantized.commitment_loss, z)
    assert pull.abs().sum() > 0
    assert quantized.codebook_loss is None


def test_with_dropout_some_images_have_their_first_levels() -> None:
    q, z = multi_scale(dropout=1.0), z_of(60)
    sums = by_hand(z, q.vectors().clone())[1]
    vectors = q(z).vectors
    kept = torch.stack([torch.isclose(vectors, each, atol=1e-5).flatten(1).all(dim=1) for each in sums])
    assert (kept.sum(dim=0) == 1).all()
    assert (kept.sum(dim=1) >= 5).all()


def test_the_gap_is_of_the_code_that_differs() -> None:
    q, z = multi_scale().eval(), z_of()
    codes = q.encode(z)
    assert (q.gap(z, codes) == 0).all()
    codes[0, 3] = (codes[0, 3] + 1) % SIZE
    gaps = q.gap(z, codes)
    assert gaps.shape == codes.shape
    assert gaps[0, 3] > 0
    assert (gaps[0, :3] == 0).all()
    assert (gaps[1:] == 0).all()


def test_it_goes_on_with_the_vectors_of_another_model() -> None:
    q = multi_scale()
    before = q.vectors().clone()
    q.adopt(rows_of(z_of(20)), batch_rows=BATCH * 49)
    assert torch.equal(q.vectors(), before)
    assert float(learned(q).uses.sum()) == pytest.approx(BATCH * ENDS[-1])
