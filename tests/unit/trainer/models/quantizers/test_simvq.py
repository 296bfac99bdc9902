import pytest
import torch
from torch import Tensor

from tests.unit.trainer.models.quantizers.grids import grid
from trainer.models.quantizers import SimVQ


def trained(q: SimVQ, z: Tensor, steps: int = 40) -> list[float]:
    optimizer = torch.optim.Adam(q.parameters(), lr=0.05)
    losses = []
    for _ in range(steps):
        loss = q(z).codebook_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_a_step_moves_all_code_vectors_and_leaves_the_codebook() -> None:
    torch.manual_seed(0)
    q, z = SimVQ(64, 4), grid(batch=1)
    codebook, before = q.codebook.clone(), q.vectors().detach()
    q.start(torch.randn(64, 4), batch_rows=30)
    assert [name for name, _ in q.named_parameters()] == ["layer"]
    losses = trained(q, 3 * z)
    assert losses[-1] < losses[0]
    assert torch.equal(q.codebook, codebook)
    assert (q.vectors() != before).any(dim=1).all()


@pytest.mark.parametrize("normalise", [False, True])
def test_the_product_is_served_as_the_codebook(normalise: bool) -> None:
    torch.manual_seed(0)
    q, z = SimVQ(16, 4, normalise=normalise), grid()
    trained(q, z, steps=3)
    served = q.eval().serving()
    assert torch.equal(served.codebook, q.vectors())
    assert torch.equal(served.encode(z), q.encode(z))
    assert not list(served.parameters())
    if normalise:
        torch.testing.assert_close(served.codebook.norm(dim=1), torch.ones(16))
