import pytest
import torch

from service.manifest import Input, Role
from trainer.still import still_noise


def test_a_default_is_all_of_the_noise() -> None:
    noise = still_noise(Input(name="noise", role=Role.normal, default=2), 3, (4, 5))
    assert (noise.dtype, noise.shape, noise.unique().tolist()) == (torch.float32, (3, 4, 5), [2])


@pytest.mark.parametrize("role", [Role.normal, Role.uniform])
def test_a_seed_draws_one_row_for_all(role: Role) -> None:
    noise = still_noise(Input(name="noise", role=role, default_seed=4), 3, (1000, 2))
    assert (noise.dtype, noise.shape) == (torch.float32, (3, 1000, 2))
    assert (noise == noise[:1]).all()
    assert torch.equal(still_noise(Input(name="other", role=role, default_seed=4), 1, (1000, 2)), noise[:1])
    assert not torch.equal(still_noise(Input(name="noise", role=role, default_seed=5), 3, (1000, 2)), noise)
    # Of 2,000 draws; five standard errors.
    mean, deviation = (0, 1) if role is Role.normal else (0.5, 12**-0.5)
    assert float(noise[0].mean()) == pytest.approx(mean, abs=5 * deviation / 2000**0.5)
    assert float(noise[0].std()) == pytest.approx(deviation, rel=0.1)
