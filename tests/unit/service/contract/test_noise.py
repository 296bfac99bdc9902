import numpy as np
import pytest

from service.contract import noise

STREAM = noise.stream("sample/prior", "noise")
GOLDEN = [2.0151005, 0.83176845, 1.102446]


@pytest.mark.parametrize("draw", [noise.normal, noise.uniform])
def test_an_item_is_the_same_in_any_batch_and_at_any_position(draw: object) -> None:
    assert callable(draw)
    many = draw(7, range(64), STREAM, (3, 2))
    assert many.shape == (64, 3, 2)
    assert many.dtype == np.float32
    np.testing.assert_array_equal(many[:5], draw(7, range(5), STREAM, (3, 2)))
    np.testing.assert_array_equal(many[9:12], draw(7, range(9, 12), STREAM, (3, 2)))


def test_seeds_items_and_streams_differ() -> None:
    def first(seed: int, item: int, stream: int) -> float:
        return float(noise.normal(seed, range(item, item + 1), stream, ())[0])

    other = noise.stream("sample/prior", "other")
    values = [first(1, 0, STREAM), first(2, 0, STREAM), first(1, 1, STREAM), first(1, 0, other)]
    assert len(set(values)) == 4


def test_distributions() -> None:
    normal = noise.normal(1, range(4), STREAM, (10_000,))
    uniform = noise.uniform(1, range(4), STREAM, (10_000,))
    assert abs(normal.mean()) < 0.02
    assert abs(normal.std() - 1) < 0.02
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.01


def test_a_seed_gives_what_it_always_gave() -> None:
    # A change here changes the samples of every seed: say so in the changelog.
    drawn = noise.normal(1, range(1), STREAM, (3,))[0]
    np.testing.assert_allclose(drawn, GOLDEN, rtol=1e-6)
