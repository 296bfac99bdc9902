import math

import pytest
import torch
from torch import nn

from trainer.models.adversarial.losses import adaptive_weight, losses, r1_penalty


def test_hinge_is_satisfied_beyond_its_margin() -> None:
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])
    assert list(losses("hinge", real, fake)) == pytest.approx([0.375, 1.5])


def test_the_logistic_loss_does_not_saturate() -> None:
    zero, lost = torch.zeros(3), torch.full((3,), -20.0, requires_grad=True)
    assert list(losses("non-saturating", zero, zero)) == pytest.approx([math.log(2)] * 2)
    losses("non-saturating", zero, lost).adversarial.backward()
    assert lost.grad is not None
    torch.testing.assert_close(lost.grad, torch.full((3,), -1 / 3))


@pytest.mark.parametrize("size", [4, 8])
def test_r1_is_half_the_squared_gradient_of_a_score_in_images_of_any_size(size: int) -> None:
    # Each score is 2 times the sum of its own four pixels: its gradient is 2 in each of them.
    scorer = nn.Conv2d(1, 1, 2, stride=2, bias=False)
    nn.init.constant_(scorer.weight, 2.0)
    penalty = r1_penalty(scorer, torch.rand(3, 1, size, size))
    assert penalty.item() == pytest.approx(4 * 2.0**2 / 2)
    penalty.backward()
    assert scorer.weight.grad is not None
    torch.testing.assert_close(scorer.weight.grad, torch.full((1, 1, 2, 2), 2.0))


def test_the_weight_is_the_ratio_of_the_gradients_at_the_last_layer() -> None:
    weights = torch.tensor([1.0, 2.0], requires_grad=True)
    inputs = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    fake = inputs @ weights
    found = adaptive_weight((3 * fake).sum(), fake, torch.tensor([0.0, 0.5]), weights)
    assert float(found) == pytest.approx(math.sqrt(18) / 0.5, rel=1e-3)
    assert weights.grad is None
