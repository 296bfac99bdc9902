import torch

from tests.unit.trainer.models.quantizers.grids import grid, rows_of
from trainer.models.quantizers.lookup_free import LookupFree


def test_the_code_is_that_of_the_nearest_combination_of_signs() -> None:
    quantizer, z = LookupFree(6), grid(dim=6)
    vectors = quantizer.vectors()
    assert vectors.shape == (64, 6)
    assert sorted(map(tuple, vectors.tolist())) == sorted({tuple(row) for row in vectors.sign().tolist()})
    codes = torch.cdist(rows_of(z), vectors).argmin(dim=1).view(3, 2, 5)
    assert torch.equal(quantizer.encode(z), codes)
    assert torch.equal(rows_of(quantizer.embed(codes)), vectors[codes.flatten()])
    quantized = quantizer(z)
    assert torch.equal(quantized.codes, codes)
    assert torch.equal(quantized.counts, codes.flatten().bincount(minlength=64).float())


def test_the_first_dimension_is_the_least_significant_bit_and_zero_is_negative() -> None:
    z = torch.tensor([[1.0, -1.0, -1.0], [-2.0, 0.0, 0.5]]).view(2, 3, 1, 1)
    assert LookupFree(3).encode(z).flatten().tolist() == [1, 4]


def test_large_codes_are_exact() -> None:
    quantizer, codes = LookupFree(18), torch.tensor([[[0, 1, 2**17, 2**18 - 1]]])
    assert torch.equal(quantizer.encode(quantizer.embed(codes)), codes)
    assert torch.equal(quantizer.encode(quantizer.embed(codes.int())), codes)


def test_the_gap_is_the_difference_of_the_squared_distances() -> None:
    quantizer, z = LookupFree(4), grid(dim=4)
    own = quantizer.encode(z)
    assert torch.equal(quantizer.gap(z, own), torch.zeros(own.shape, dtype=torch.float64))
    other = (own + 3) % 16
    best, chosen = ((z - quantizer.embed(codes)).double().square().sum(dim=1) for codes in (own, other))
    expected = (chosen - best) / (z.double().square().sum(dim=1) + 4)
    torch.testing.assert_close(quantizer.gap(z, other), expected, rtol=1e-5, atol=1e-6)
