import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.quantizer import Quantizer, Update, kmeans, nearest, perplexity, usage

# Of |z|^2 + |e|^2: what float32 sums of up to 16 products may be wrong by.
TIE = 1e-5


def quantizer(
    size: int = 8,
    dim: int = 4,
    *,
    update: Update = "gradient",
    decay: float = 0.9,
    restart_below: float = 0.0,
) -> Quantizer:
    """A quantizer with spread-out code vectors."""
    torch.manual_seed(1)
    made = Quantizer(size, dim, update=update, decay=decay, restart_below=restart_below)
    vectors = torch.randn(size, dim)
    with torch.no_grad():
        made.codebook.copy_(vectors)
        made.sums.copy_(vectors)
    return made


def grid(batch: int = 3, dim: int = 4, height: int = 2, width: int = 5) -> Tensor:
    return torch.randn(batch, dim, height, width, generator=torch.Generator().manual_seed(2))


def rows_of(z: Tensor) -> Tensor:
    return z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**31),
    size=st.integers(1, 40),
    dim=st.integers(1, 16),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_nearest_is_the_nearest_but_for_ties(seed: int, size: int, dim: int, scale: float) -> None:
    torch.manual_seed(seed)
    rows, codebook = scale * torch.randn(20, dim), scale * torch.randn(size, dim)
    codes = nearest(rows, codebook)
    distances = torch.cdist(rows.double(), codebook.double()).square()
    chosen = distances.gather(1, codes[:, None]).squeeze(1)
    lengths = rows.double().square().sum(1) + codebook.double().square().sum(1)[codes]
    assert torch.all(chosen - distances.min(1).values <= TIE * lengths)


def test_of_equally_near_codes_the_first_is_taken() -> None:
    codebook = torch.tensor([[5.0], [1.0], [1.0]])
    assert nearest(torch.tensor([[1.0]]), codebook).tolist() == [1]


def test_each_cell_gets_its_nearest_code_vector() -> None:
    q, z = quantizer().eval(), grid()
    quantized = q(z)
    assert torch.equal(quantized.codes.flatten(), nearest(rows_of(z), q.codebook))
    assert torch.equal(q.encode(z), quantized.codes)
    expected = q.codebook[quantized.codes].permute(0, 3, 1, 2)
    torch.testing.assert_close(quantized.vectors, expected)


def test_counts_are_of_this_batch() -> None:
    q, z = quantizer().eval(), grid()
    quantized = q(z)
    expected = [int((quantized.codes == code).sum()) for code in range(q.size)]
    assert quantized.counts.tolist() == expected
    assert sum(expected) == 3 * 2 * 5


def test_the_gradient_at_the_encoder_is_that_at_the_code_vectors() -> None:
    q, z = quantizer(), grid().requires_grad_()
    weight = torch.randn(3, 4, 2, 5)
    quantized = q(z)
    vectors = quantized.vectors.detach().requires_grad_()
    (weight * vectors.sin()).sum().backward()
    (weight * quantized.vectors.sin()).sum().backward()
    assert z.grad is not None
    assert vectors.grad is not None
    assert torch.equal(z.grad, vectors.grad)
    assert q.codebook.grad is None


def test_the_codebook_loss_moves_the_codes_as_in_equation_3() -> None:
    q, z = quantizer(), grid().requires_grad_()
    q(z).codebook_loss.backward()
    rows = rows_of(z.detach())
    codes = nearest(rows, q.codebook.detach())
    # The mean of |sg[z] - e|^2, differentiated by hand.
    expected = torch.zeros(q.size, q.dim)
    for row, code in zip(rows, codes.tolist(), strict=True):
        expected[code] += 2 * (q.codebook.detach()[code] - row) / rows.numel()
    torch.testing.assert_close(q.codebook.grad, expected)
    assert z.grad is None


def test_the_commitment_loss_moves_the_encoder_alone() -> None:
    q, z = quantizer(), grid().requires_grad_()
    quantized = q(z)
    quantized.commitment_loss.backward()
    vectors = q.codebook.detach()[quantized.codes].permute(0, 3, 1, 2)
    torch.testing.assert_close(z.grad, 2 * (z.detach() - vectors) / z.numel())
    torch.testing.assert_close(quantized.commitment_loss, F.mse_loss(z, vectors))
    assert q.codebook.grad is None


def test_the_moving_averages_are_those_of_appendix_a1() -> None:
    q = quantizer(update="ema", decay=0.5)
    codebook, uses, sums = q.codebook.clone(), torch.ones(q.size), q.codebook.clone()
    for step in range(1, 13):
        z = torch.randn(2, q.dim, 3, 3)
        rows = rows_of(z)
        codes = nearest(rows, codebook)
        # The paper's gamma, which a young codebook reaches step by step (at 0.5: after the eighth).
        gamma = min(0.5, (1 + step) / (10 + step))
        for code in range(q.size):
            members = rows[codes == code]
            uses[code] = gamma * uses[code] + (1 - gamma) * len(members)
            sums[code] = gamma * sums[code] + (1 - gamma) * members.sum(0)
        codebook = sums / uses[:, None]
        q(z)
        torch.testing.assert_close(q.uses, uses)
        torch.testing.assert_close(q.codebook, codebook)


def test_under_ema_there_is_no_codebook_loss_and_nothing_to_optimise() -> None:
    q = quantizer(update="ema")
    assert q(grid()).codebook_loss == 0
    assert list(q.parameters()) == []


def test_a_code_without_members_stays_finite_under_ema() -> None:
    q = quantizer(update="ema", decay=0.0)
    for _ in range(3):
        q(grid())
    assert q.codebook.isfinite().all()


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_a_dead_code_is_put_where_an_encoder_output_is(update: Update) -> None:
    # Without a memory, a code is dead if this batch does not use it.
    q, z = quantizer(size=32, update=update, decay=0.0, restart_below=0.01), grid()
    before = q.codebook.detach().clone()
    counts = q(z).counts
    dead, rows = counts == 0, rows_of(z)
    assert 0 < dead.sum() < q.size
    for vector in q.codebook.detach()[dead]:
        assert (rows == vector).all(1).any()
    if update == "gradient":
        assert torch.equal(q.codebook.detach()[~dead], before[~dead])


def test_a_restarted_code_is_given_time() -> None:
    q = quantizer(size=32, decay=0.9, restart_below=0.01)
    q.uses.zero_()
    q.steps.fill_(1000)
    q(grid())
    restarted = q.codebook.detach().clone()
    q(grid())
    assert torch.equal(q.codebook.detach(), restarted)


def test_without_restarts_a_dead_code_stays_where_it_is() -> None:
    q = quantizer(size=32, decay=0.0, restart_below=0.0)
    before = q.codebook.detach().clone()
    q(grid())
    assert torch.equal(q.codebook.detach(), before)


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_evaluation_changes_nothing(update: Update) -> None:
    q = quantizer(update=update, decay=0.0, restart_below=0.5).eval()
    before = {name: tensor.clone() for name, tensor in q.state_dict().items()}
    q(grid())
    assert all(torch.equal(tensor, before[name]) for name, tensor in q.state_dict().items())


def test_distances_are_float32_under_autocast() -> None:
    q = quantizer(size=2, dim=1).eval()
    with torch.no_grad():
        q.codebook.copy_(torch.tensor([[1.0], [1.001]]))  # the same number in bfloat16
    z = torch.tensor([1.0, 1.001]).view(1, 1, 1, 2)
    with torch.autocast("cpu", torch.bfloat16):
        quantized = q(z)
    assert quantized.codes.flatten().tolist() == [0, 1]
    assert quantized.vectors.dtype == torch.float32


def clusters(count: int, each: int, dim: int = 3) -> tuple[Tensor, Tensor]:
    """Clusters of a spread of 0.01 around centres at least 10 apart: rows and centres."""
    torch.manual_seed(3)
    centres = 10 * torch.arange(count).float()[:, None] + torch.rand(count, dim)
    return (centres[:, None] + 0.01 * torch.randn(count, each, dim)).reshape(-1, dim), centres


def test_kmeans_finds_clusters_that_are_far_apart() -> None:
    rows, centres = clusters(4, 50)
    found, counts = kmeans(rows, 24)
    assert torch.cdist(centres, found).min(1).values.max() < 0.05
    assert counts.sum() >= len(rows)


def test_kmeans_centres_are_the_means_of_their_rows() -> None:
    rows, _ = clusters(2, 50)
    centres, counts = kmeans(rows, 2)
    assert counts.tolist() == [50, 50]
    means = rows.view(2, 50, -1).mean(1)
    torch.testing.assert_close(centres[centres[:, 0].argsort()], means)


def test_kmeans_may_have_fewer_rows_than_centres() -> None:
    rows = torch.tensor([[1.0], [2.0]])
    centres, counts = kmeans(rows, 5)
    assert set(centres.flatten().tolist()) == {1.0, 2.0}
    assert torch.all(counts >= 1)


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_the_codebook_may_start_as_kmeans_centres(update: Update) -> None:
    rows, centres = clusters(4, 50)
    q = quantizer(size=24, dim=3, update=update)
    q.start(rows)
    assert torch.cdist(centres, q.codebook.detach()).min(1).values.max() < 0.05
    torch.testing.assert_close(q.sums / q.uses[:, None], q.codebook.detach())


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=50).filter(any))
def test_perplexity_is_between_one_and_the_number_of_used_codes(counts: list[int]) -> None:
    found = perplexity(torch.tensor(counts))
    used = sum(count > 0 for count in counts)
    assert 1 - 1e-9 <= found <= used * (1 + 1e-9)
    assert usage(torch.tensor(counts)) == used / len(counts)


@pytest.mark.parametrize("size", [1, 7, 512])
def test_perplexity_of_an_even_use_is_the_number_of_codes(size: int) -> None:
    assert perplexity(torch.full((size,), 3.0)) == pytest.approx(size)


def test_perplexity_is_the_exponential_of_the_entropy() -> None:
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert perplexity(torch.tensor([1.0, 3.0, 0.0])) == pytest.approx(math.exp(entropy))
