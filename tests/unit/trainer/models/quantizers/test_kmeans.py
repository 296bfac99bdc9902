import pytest
import torch
from torch import Tensor

from trainer.models.quantizers.base import on_sphere
from trainer.models.quantizers.learned import kmeans
from trainer.models.quantizers.lookup import nearest


def clusters(count: int, each: int, dim: int = 3) -> tuple[Tensor, Tensor]:
    """Clusters of a spread of 0.01 around centres at least 10 apart: rows and centres."""
    torch.manual_seed(3)
    centres = 10 * torch.arange(count).float()[:, None] + torch.rand(count, dim)
    return (centres[:, None] + 0.01 * torch.randn(count, each, dim)).reshape(-1, dim), centres


def test_clusters_that_are_far_apart_are_found() -> None:
    rows, centres = clusters(4, 50)
    found = kmeans(rows, 24)
    assert torch.cdist(centres, found.centres).min(1).values.max() < 0.05
    assert found.counts.sum() >= len(rows)


def test_centres_are_the_means_of_their_rows() -> None:
    rows, _ = clusters(2, 50)
    centres, sums, counts = kmeans(rows, 2)
    assert counts.tolist() == [50, 50]
    torch.testing.assert_close(sums, 50 * centres)
    means = rows.view(2, 50, -1).mean(1)
    torch.testing.assert_close(centres[centres[:, 0].argsort()], means)


def test_there_may_be_fewer_rows_than_centres() -> None:
    rows = torch.tensor([[1.0], [2.0]])
    found = kmeans(rows, 5)
    assert set(found.centres.flatten().tolist()) == {1.0, 2.0}
    assert torch.all(found.counts >= 1)


def test_spherical_centres_are_the_directions_of_the_sums_of_their_rows() -> None:
    torch.manual_seed(0)
    rows = on_sphere(torch.randn(400, 3))
    centres, sums, counts = kmeans(rows, 6, spherical=True, rounds=100)
    torch.testing.assert_close(centres.norm(dim=1), torch.ones(6))
    # After so many rounds nothing moves any more.
    codes = nearest(rows, centres)
    assert torch.equal(codes, (rows @ centres.T).argmax(1))
    for code in range(6):
        members = rows[codes == code]
        assert counts[code] == len(members)
        torch.testing.assert_close(sums[code], members.sum(0))
        torch.testing.assert_close(centres[code], members.sum(0) / members.sum(0).norm())


@pytest.mark.parametrize("spherical", [False, True])
def test_no_centre_is_left_without_rows_near_it(spherical: bool) -> None:
    rows = on_sphere(clusters(3, 40)[0])
    found = kmeans(rows, 40, spherical=spherical)
    assert torch.cdist(found.centres, rows).min(1).values.max() < 0.05
