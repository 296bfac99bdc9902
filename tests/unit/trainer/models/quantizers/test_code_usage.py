import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.models.quantizers.base import counted, perplexity, usage


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), max_size=50))
def test_codes_are_counted(codes: list[int]) -> None:
    found = counted(torch.tensor(codes, dtype=torch.int64)[None], 10)
    assert found.tolist() == [codes.count(code) for code in range(10)]


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=50).filter(any))
def test_perplexity_is_between_one_and_the_number_of_used_codes(counts: list[int]) -> None:
    found = perplexity(torch.tensor(counts))
    used = sum(count > 0 for count in counts)
    assert 1 - 1e-9 <= found <= used * (1 + 1e-9)
    assert usage(torch.tensor(counts)) == used / len(counts)


@pytest.mark.parametrize("size", [1, 7, 512])
def test_perplexity_of_an_even_use_is_the_number_of_codes(size: int) -> None:
    assert perplexity(torch.full((size,), 3.0)) == pytest.approx(size)


def test_perplexity_is_the_exponential_of_the_entropy() -> None:
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert perplexity(torch.tensor([1.0, 3.0, 0.0])) == pytest.approx(math.exp(entropy))
