import torch
from torch import Tensor

from tests.fixtures import tiny_models
from trainer.data.batches import Batch
from trainer.models.losses import pretext
from trainer.models.losses.feature_network import FeatureNetwork
from trainer.models.losses.pretext import blurred, coarse, crosshatched, intact, learn, noisy, task


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def picture() -> Tensor:
    return torch.rand(1, 3, 9, 9, generator=generator()) * 2 - 1


def test_each_damage_changes_what_it_should() -> None:
    smooth, rough = torch.full((1, 3, 9, 9), 0.3), picture()
    torch.testing.assert_close(intact(rough, 1.0, generator()), rough)
    # A blur and blocks leave what is smooth, and take from what is rough.
    for damage in (blurred, coarse):
        torch.testing.assert_close(damage(smooth, 0.5, generator()), smooth)
        assert float(damage(rough, 0.5, generator()).var()) < 0.8 * float(rough.var())
    torch.testing.assert_close(crosshatched(smooth, 1.0, generator())[0, 0, :2, :2] - 0.3, crosshatch(0.2))
    assert 0.15 < float((noisy(smooth, 1.0, generator()) - smooth).std()) < 0.25


def crosshatch(size: float) -> Tensor:
    return torch.tensor([[-size, size], [size, -size]])


def test_a_task_is_a_turned_square_with_its_truth() -> None:
    images = torch.zeros(64, 1, 6, 10, dtype=torch.uint8)
    images[:, :, 0] = 255
    pictures, truth = task(Batch(images, torch.arange(64)), generator())
    assert pictures.shape == (64, 1, 6, 6)
    assert torch.equal(truth["class"], torch.arange(64))
    assert set(truth["turn"].tolist()) == set(range(4))
    assert set(truth["damage"].tolist()) == set(range(len(pretext.DAMAGES)))
    # The bright row at the top is at the left, the bottom and the right after each turn.
    edges = torch.stack(
        [pictures[:, 0, 0], pictures[:, 0, :, 0], pictures[:, 0, -1], pictures[:, 0, :, -1]]
    ).mean(dim=2)
    assert torch.equal(edges.argmax(dim=0), truth["turn"])


def test_a_network_learns_and_learns_the_same_again() -> None:
    labels = torch.arange(16) % 2
    images = tiny_models.images(16, channels=3, height=8, width=8) // 4
    images[labels == 0, 0] += 128
    images[labels == 1, 2] += 128
    shown: list[tuple[int, int]] = []

    def learned() -> tuple[FeatureNetwork, dict[str, float]]:
        torch.manual_seed(0)
        network = FeatureNetwork(3)
        batches = iter([Batch(images, labels)] * 20)
        return network, learn(network, batches, 20, 2, lambda done, total: shown.append((done, total)))

    network, right = learned()
    assert right.keys() == {"turn", "damage", "class"}
    assert right["class"] == 1
    assert shown[-1] == (20, 20)
    again, _ = learned()
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


def test_the_features_are_of_four_resolutions_and_not_below_0() -> None:
    found = FeatureNetwork(1).eval()(torch.randn(2, 1, 7, 9))
    assert [tuple(features.shape) for features in found] == [
        (2, 16, 7, 9),
        (2, 32, 4, 5),
        (2, 64, 2, 3),
        (2, 96, 1, 2),
    ]
    assert all(bool((features >= 0).all()) for features in found)


def test_folded_normalisations_leave_the_features_as_they_are() -> None:
    torch.manual_seed(0)
    network = FeatureNetwork(3)
    pictures = torch.randn(4, 3, 8, 8)
    network(pictures)  # Moves the means and variances.
    torch.testing.assert_close(network.folded()(pictures), network.eval()(pictures), rtol=1e-4, atol=1e-5)
