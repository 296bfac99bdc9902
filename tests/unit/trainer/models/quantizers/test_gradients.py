import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.models.quantizers.base import SHORTEST_ROTATED, rotated, straight_through


def vectors(seed: int, dim: int, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Encoder outputs, code vectors, and a gradient at these, each (20, dim)."""
    torch.manual_seed(seed)
    z, e, gradient = torch.randn(3, 20, dim, dtype=torch.float64)
    return (scale * z).requires_grad_(), e.requires_grad_(), gradient


def cosines(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=1) / a.norm(dim=1) / b.norm(dim=1)


def test_straight_through_is_the_code_vector_with_the_gradient_of_the_encoder_output() -> None:
    z, e, gradient = vectors(0, 3)
    passed = straight_through(z, e)
    passed.backward(gradient)
    assert torch.equal(passed, e)
    assert z.grad is not None
    assert torch.equal(z.grad, gradient)
    assert e.grad is None


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), dim=st.integers(1, 16), scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_a_rotation_keeps_the_angle_of_the_gradient(seed: int, dim: int, scale: float) -> None:
    z, e, gradient = vectors(seed, dim, scale)
    assume(cosines(z, e).min() > -0.999 or dim == 1)
    assume(z.norm(dim=1).min() > SHORTEST_ROTATED)
    passed = rotated(z, e)
    passed.backward(gradient)
    assert torch.equal(passed, e)
    assert z.grad is not None
    assert e.grad is None
    # 2410.06424, sec. 4.3: as the gradient lies to the code vector, so it lies to the encoder output.
    torch.testing.assert_close(cosines(z.grad, z), cosines(gradient, e))
    # Rescaled as the vector was.
    scales = e.norm(dim=1) / z.detach().norm(dim=1)
    torch.testing.assert_close(z.grad.norm(dim=1), scales * gradient.norm(dim=1))


def test_the_rotation_is_the_matrix_of_the_paper() -> None:
    z, e, gradient = vectors(1, 5)
    rotated(z, e).backward(gradient)
    assert z.grad is not None
    for row in range(len(z)):
        from_, to = (each[row].detach() / each[row].detach().norm() for each in (z, e))
        middle = (from_ + to) / (from_ + to).norm()
        matrix = torch.eye(5) - 2 * torch.outer(middle, middle) + 2 * torch.outer(to, from_)
        scale = e[row].detach().norm() / z[row].detach().norm()
        torch.testing.assert_close(scale * matrix @ z[row].detach(), e[row].detach())
        torch.testing.assert_close(z.grad[row], scale * matrix.T @ gradient[row])


def test_opposite_vectors_and_those_of_no_length_give_finite_gradients() -> None:
    z = torch.tensor([[1.0, 0.0], [0.0, 0.0], [2.0, 1.0]], requires_grad=True)
    e = torch.tensor([[-3.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    passed = rotated(z, e)
    passed.sum().backward()
    assert torch.equal(passed, e)
    assert z.grad is not None
    assert z.grad.isfinite().all()
    assert z.grad[2].tolist() == [0, 0]
