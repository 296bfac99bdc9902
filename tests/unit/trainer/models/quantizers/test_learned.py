import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.unit.trainer.models.quantizers.grids import grid, rows_of
from tests.unit.trainer.models.quantizers.test_kmeans import clusters
from trainer.models.quantizers.base import on_sphere
from trainer.models.quantizers.learned import LearnedCodebook, Update
from trainer.models.quantizers.lookup import nearest

BOTH: list[Update] = ["gradient", "ema"]


def quantizer(
    size: int = 8,
    dim: int = 4,
    *,
    update: Update = "gradient",
    decay: float = 0.9,
    restart_below: float = 0.0,
    normalise: bool = False,
    rotate: bool = False,
) -> LearnedCodebook:
    """A quantizer with spread-out code vectors."""
    torch.manual_seed(1)
    made = LearnedCodebook(
        size,
        dim,
        update=update,
        decay=decay,
        restart_below=restart_below,
        normalise=normalise,
        rotate=rotate,
    )
    vectors = on_sphere(torch.randn(size, dim)) if normalise else torch.randn(size, dim)
    with torch.no_grad():
        made.codebook.copy_(vectors)
        made.sums.copy_(vectors)
    return made


def loss(value: Tensor | None) -> Tensor:
    assert value is not None
    return value


def test_each_cell_gets_its_nearest_code_vector() -> None:
    q, z = quantizer().eval(), grid()
    quantized = q(z)
    assert torch.equal(quantized.codes.flatten(), nearest(rows_of(z), q.codebook))
    assert torch.equal(quantized.vectors, q.codebook[quantized.codes].permute(0, 3, 1, 2))


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("update", BOTH)
def test_the_vectors_are_those_of_the_codes(update: Update, normalise: bool) -> None:
    q, z = quantizer(update=update, normalise=normalise).eval(), grid()
    quantized = q(z)
    assert torch.equal(q.encode(z), quantized.codes)
    assert torch.equal(q.embed(quantized.codes), quantized.vectors)
    assert torch.equal(q.embed(quantized.codes.int()), quantized.vectors)


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


def test_with_the_rotation_trick_it_is_turned() -> None:
    q, z = quantizer(rotate=True), grid().requires_grad_()
    weight = torch.randn(3, 4, 2, 5)
    quantized = q(z)
    (weight * quantized.vectors).sum().backward()
    assert torch.equal(quantized.vectors, q.embed(quantized.codes))
    assert z.grad is not None
    angles = (
        F.cosine_similarity(z.grad, z, dim=1),
        F.cosine_similarity(weight, quantized.vectors, dim=1),
    )
    torch.testing.assert_close(*angles)
    assert not torch.allclose(z.grad, weight)
    assert q.codebook.grad is None


def test_the_codebook_loss_moves_the_codes_as_in_equation_3() -> None:
    q, z = quantizer(), grid().requires_grad_()
    loss(q(z).codebook_loss).backward()
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
    loss(quantized.commitment_loss).backward()
    vectors = q.codebook.detach()[quantized.codes].permute(0, 3, 1, 2)
    torch.testing.assert_close(z.grad, 2 * (z.detach() - vectors) / z.numel())
    torch.testing.assert_close(quantized.commitment_loss, F.mse_loss(z, vectors))
    assert q.codebook.grad is None


@pytest.mark.parametrize("normalise", [False, True])
def test_the_moving_averages_are_those_of_appendix_a1(normalise: bool) -> None:
    q = quantizer(update="ema", decay=0.5, normalise=normalise)
    codebook, uses, sums = q.codebook.clone(), torch.ones(q.size), q.codebook.clone()
    for step in range(1, 13):
        z = torch.randn(2, q.dim, 3, 3)
        rows = F.normalize(rows_of(z), dim=1) if normalise else rows_of(z)
        codes = nearest(rows, codebook)
        # The paper's gamma, which a young codebook reaches step by step (at 0.5: after the eighth).
        gamma = min(0.5, (1 + step) / (10 + step))
        for code in range(q.size):
            members = rows[codes == code]
            uses[code] = gamma * uses[code] + (1 - gamma) * len(members)
            sums[code] = gamma * sums[code] + (1 - gamma) * members.sum(0)
        # On the sphere the mean of directions is not one, until it is scaled to length 1.
        codebook = F.normalize(sums, dim=1) if normalise else sums / uses[:, None]
        q(z)
        torch.testing.assert_close(q.uses, uses)
        torch.testing.assert_close(q.sums, sums)
        torch.testing.assert_close(q.codebook, codebook)


def test_under_ema_there_is_no_codebook_loss_and_nothing_to_optimise() -> None:
    q = quantizer(update="ema")
    assert q(grid()).codebook_loss is None
    assert list(q.parameters()) == []


@pytest.mark.parametrize("normalise", [False, True])
def test_a_code_without_members_stays_where_it_is(normalise: bool) -> None:
    q = quantizer(size=32, update="ema", decay=0.0, normalise=normalise)
    before = q.codebook.clone()
    used = q(grid()).counts > 0
    assert used.any()
    assert not used.all()
    assert torch.equal(q.codebook[~used], before[~used])
    # Its moving averages fade to nothing, which is the direction of nothing.
    for seed in range(3):
        q(grid(seed=seed))
    assert q.codebook.isfinite().all()
    assert (q.codebook.norm(dim=1) > 0).all()


@pytest.mark.parametrize("update", BOTH)
def test_a_dead_code_is_put_where_an_encoder_output_is(update: Update) -> None:
    # Without a memory, a code is dead if this batch does not use it.
    q, z = quantizer(size=24, update=update, decay=0.0, restart_below=0.01), grid()
    before = q.codebook.detach().clone()
    counts = q(z).counts
    dead, rows = counts == 0, rows_of(z)
    assert 0 < dead.sum() < q.size
    found = q.codebook.detach()[dead]
    assert (found[:, None] == rows).all(2).any(1).all()
    torch.testing.assert_close(q.sums[dead] / q.uses[dead, None], found)
    # Not two on the same one, of which only the first would be used.
    assert len(found.unique(dim=0)) == len(found)
    if update == "gradient":
        assert torch.equal(q.codebook.detach()[~dead], before[~dead])


@pytest.mark.parametrize("update", BOTH)
def test_on_the_sphere_codes_restart_on_the_sphere(update: Update) -> None:
    q = quantizer(size=24, update=update, decay=0.0, restart_below=0.01, normalise=True)
    dead = q(grid()).counts == 0
    rows = on_sphere(rows_of(grid()))
    assert (q.codebook.detach()[dead][:, None] == rows).all(2).any(1).all()
    torch.testing.assert_close(q.codebook.detach().norm(dim=1), torch.ones(24))


@pytest.mark.parametrize("size", [2, 24])
def test_a_restarted_code_is_given_time(size: int) -> None:
    """With few codes an even use is 15 rows a step, with many 1: both must outlive a few steps without."""
    q = quantizer(size=size, decay=0.9, restart_below=0.2)
    q.uses.fill_(-1000)
    q.steps.fill_(1000)
    q(grid())
    restarted = q.codebook.detach().clone()
    far = 100 + grid()
    for _ in range(10):
        q(far)
    unused = (torch.cdist(rows_of(far), restarted).argmin(1).bincount(minlength=size) == 0).nonzero()
    assert len(unused) > 0
    assert torch.equal(q.codebook.detach()[unused], restarted[unused])
    # But not for ever.
    for _ in range(20):
        q(far)
    assert not (q.codebook.detach()[unused] == restarted[unused]).any()


def test_with_fewer_rows_than_codes_all_restart_in_turn() -> None:
    q = quantizer(size=70, decay=0.9, restart_below=0.2)
    q.steps.fill_(10_000_000)
    q.uses.fill_(-1000)
    before = q.codebook.detach().clone()
    moved = []
    for step in range(3):
        q(grid(seed=step))
        moved.append(int((q.codebook.detach() != before).any(1).sum()))
    assert moved == [30, 60, 70]
    # No two on the same row.
    assert len(q.codebook.detach().unique(dim=0)) == 70


def test_without_restarts_a_dead_code_stays_where_it_is() -> None:
    q = quantizer(size=32, decay=0.0, restart_below=0.0)
    before = q.codebook.detach().clone()
    q(grid())
    assert torch.equal(q.codebook.detach(), before)


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("update", BOTH)
def test_evaluation_changes_nothing(update: Update, normalise: bool) -> None:
    q = quantizer(update=update, decay=0.0, restart_below=0.5, normalise=normalise).eval()
    before = {name: tensor.clone() for name, tensor in q.state_dict().items()}
    q(grid())
    q.encode(grid())
    assert all(torch.equal(tensor, before[name]) for name, tensor in q.state_dict().items())


def test_distances_are_float32_under_autocast() -> None:
    q = quantizer(size=2, dim=1).eval()
    with torch.no_grad():
        q.codebook.copy_(torch.tensor([[1.0], [1.001]]))  # the same number in bfloat16
    z = torch.tensor([1.0, 1.001]).view(1, 1, 1, 2)
    with torch.autocast("cpu", torch.bfloat16):
        quantized, codes = q(z), q.encode(z)
    assert quantized.codes.flatten().tolist() == [0, 1]
    assert codes.flatten().tolist() == [0, 1]
    assert quantized.vectors.dtype == torch.float32


@pytest.mark.parametrize("update", BOTH)
def test_the_codebook_may_start_as_kmeans_centres(update: Update) -> None:
    rows, centres = clusters(4, 50)
    q = quantizer(size=24, dim=3, update=update)
    q.start(rows, batch_rows=10)
    assert torch.cdist(centres, q.codebook.detach()).min(1).values.max() < 0.05
    torch.testing.assert_close(q.sums / q.uses[:, None], q.codebook.detach())


@pytest.mark.parametrize("update", BOTH)
def test_on_the_sphere_it_starts_as_directions(update: Update) -> None:
    torch.manual_seed(0)
    rows = torch.randn(400, 3)
    q = quantizer(size=6, dim=3, update=update, normalise=True)
    q.start(5 * rows, batch_rows=400)
    torch.testing.assert_close(q.codebook.detach().norm(dim=1), torch.ones(6))
    torch.testing.assert_close(on_sphere(q.sums), q.codebook.detach())
    mean_cosine = (on_sphere(rows) @ q.codebook.detach().T).max(1).values.mean()
    assert mean_cosine > 0.8  # six random directions: 0.7


@pytest.mark.parametrize("rows", [20, 5000])
def test_the_counts_start_on_the_scale_of_a_batch(rows: int) -> None:
    """However many rows k-means had, a step's batch moves the averages as far."""
    torch.manual_seed(0)
    q = quantizer(size=10, update="ema")
    q.start(torch.randn(rows, 4), batch_rows=300)
    torch.testing.assert_close(q.uses.sum(), torch.tensor(300.0))
    codebook, uses = q.codebook.clone(), q.uses.clone()
    z = torch.randn(3, 4, 10, 10)
    codes = q(z).codes.flatten()
    means = torch.zeros(10, 4).index_add_(0, codes, rows_of(z))
    counts = codes.bincount(minlength=10)
    share = 1 - 2 / 11  # of the first step
    expected = ((1 - share) * uses[:, None] * codebook + share * means) / (
        (1 - share) * uses + share * counts
    )[:, None]
    torch.testing.assert_close(q.codebook, expected)


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 2**31),
    update=st.sampled_from(BOTH),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_on_the_sphere_only_directions_count(seed: int, update: Update, scale: float) -> None:
    q = quantizer(size=12, update=update, normalise=True).eval()
    if update == "gradient":
        with torch.no_grad():
            q.codebook.mul_(1 + torch.rand(12, 1))
    z = grid(seed=seed)
    quantized = q(scale * z)
    cosines = F.normalize(rows_of(z), dim=1) @ F.normalize(q.codebook.detach(), dim=1).T
    chosen = cosines.gather(1, quantized.codes.view(-1, 1)).squeeze(1)
    assert torch.all(cosines.max(1).values - chosen < 1e-6)
    vectors = rows_of(quantized.vectors).detach()
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))
    torch.testing.assert_close(
        loss(quantized.commitment_loss), F.mse_loss(F.normalize(rows_of(z), dim=1), vectors)
    )


def test_on_the_sphere_a_gradient_may_move_codes_that_restart() -> None:
    q, z = quantizer(size=32, decay=0.0, restart_below=0.01, normalise=True), grid()
    quantized = q(z)
    used = quantized.counts > 0
    loss(quantized.codebook_loss).backward()
    assert q.codebook.grad is not None
    assert (q.codebook.grad[used] != 0).any(1).all()
    assert (q.codebook.grad[~used] == 0).all()


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("update", BOTH)
def test_what_serves_has_the_vectors_as_its_codebook(update: Update, normalise: bool) -> None:
    q, z = quantizer(update=update, normalise=normalise).eval(), grid()
    if update == "gradient":
        with torch.no_grad():
            q.codebook.mul_(3)
    serving = q.serving().eval()
    codes = q.encode(z)
    assert torch.equal(serving.codebook, q.vectors())
    assert torch.equal(serving.encode(z), codes)
    assert torch.equal(serving.embed(codes), q.embed(codes))
    if normalise:
        torch.testing.assert_close(serving.codebook.norm(dim=1), torch.ones(q.size))


def test_the_gap_is_that_between_the_two_distances() -> None:
    q, z = quantizer().eval(), grid()
    codes = (q.encode(z) + 1) % q.size
    rows, codebook = rows_of(z).double(), q.codebook.detach().double()
    distances = torch.cdist(rows, codebook).square()
    chosen = codebook[codes.flatten()]
    expected = distances.gather(1, codes.view(-1, 1)).squeeze(1) - distances.min(1).values
    expected /= rows.square().sum(1) + chosen.square().sum(1)
    torch.testing.assert_close(q.gap(z, codes), expected.view(codes.shape))


@pytest.mark.parametrize("update", BOTH)
def test_on_the_sphere_the_gap_is_that_between_the_two_cosines(update: Update) -> None:
    q, z = quantizer(update=update, normalise=True).eval(), 50 * grid()
    if update == "gradient":
        with torch.no_grad():
            q.codebook.mul_(3)
    codes = (q.encode(z) + 1) % q.size
    cosines = F.normalize(rows_of(z), dim=1) @ F.normalize(q.codebook.detach(), dim=1).T
    expected = cosines.max(1).values - cosines.gather(1, codes.view(-1, 1)).squeeze(1)
    found = q.gap(z, codes)
    torch.testing.assert_close(found.float(), expected.view(codes.shape), atol=1e-6, rtol=1e-4)
    assert q.gap(z, q.encode(z)).max() == 0


def test_the_state_is_that_of_earlier_checkpoints() -> None:
    ema, gradient = quantizer(update="ema"), quantizer(update="gradient")
    assert list(ema.state_dict()) == ["codebook", "steps", "uses", "sums"]
    assert set(gradient.state_dict()) == set(ema.state_dict())
