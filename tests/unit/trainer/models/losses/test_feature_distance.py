import torch
from torch import Tensor, nn

from trainer.models.losses.feature_distance import FeatureDistance


class Features(nn.Module):
    """Two layers: the picture, above 0, and means over blocks of 2 x 2 in twice the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, pictures: Tensor) -> list[Tensor]:
        fine = self.scale * (pictures + 1.1)
        return [fine, nn.functional.avg_pool2d(torch.cat([fine, fine.square()], dim=1), 2)]


def pictures(seed: int) -> Tensor:
    return torch.rand(3, 2, 4, 6, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_the_distance_is_that_of_equation_1() -> None:
    ours, theirs = pictures(0), pictures(1)
    weights = [torch.tensor([0.5, 2.0]), torch.tensor([1.0, 0.0, 3.0, 0.2])]
    expected = torch.zeros(())
    for own, other, weight in zip(Features()(ours), Features()(theirs), weights, strict=True):
        for image in range(3):
            places = own.shape[2] * own.shape[3]
            for row in range(own.shape[2]):
                for column in range(own.shape[3]):
                    a, b = own[image, :, row, column], other[image, :, row, column]
                    difference = a / a.norm() - b / b.norm()
                    expected = expected + (weight * difference.square()).sum() / (3 * places)
    torch.testing.assert_close(FeatureDistance(Features(), weights)(ours, theirs), expected)


def test_without_weights_each_channel_counts_as_one() -> None:
    ones = [torch.ones(2), torch.ones(4)]
    found = FeatureDistance(Features())(pictures(0), pictures(1))
    torch.testing.assert_close(found, FeatureDistance(Features(), ones)(pictures(0), pictures(1)))


def test_only_the_reconstructions_have_a_gradient() -> None:
    network = Features()
    ours, theirs = pictures(0).requires_grad_(), pictures(1).requires_grad_()
    FeatureDistance(network)(ours, theirs).backward()
    assert ours.grad is not None
    assert ours.grad.any()
    assert theirs.grad is None
    assert network.scale.grad is None


def test_a_position_without_features_has_a_finite_gradient() -> None:
    ours = torch.full((1, 2, 4, 4), -1.1).requires_grad_()
    FeatureDistance(Features())(ours, pictures(1)[:1, :, :4, :4]).backward()
    assert ours.grad is not None
    assert ours.grad.isfinite().all()
