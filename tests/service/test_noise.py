from service import noise


def test_drawn_seeds_are_ones_a_caller_may_give() -> None:
    seeds = [noise.draw_seed() for _ in range(100)]
    assert len(set(seeds)) > 90
    assert all(0 <= seed <= noise.LARGEST_SEED for seed in seeds)
