import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.unit.trainer.models import priors
from trainer.models.code_prior.network import WHOLE, CodePrior, Ordered, random_masks

CPU = torch.device("cpu")


@st.composite
def some_masks(draw: st.DrawFn) -> Tensor:
    """Bool ``(B, h, w)``."""
    shape = [draw(st.integers(1, most)) for most in (3, 5, 5)]
    cells = draw(st.lists(st.booleans(), min_size=1).map(lambda some: (some * 75)[:75]))
    return torch.tensor(cells[: shape[0] * shape[1] * shape[2]]).view(shape)


@settings(deadline=None)
@given(some_masks())
def test_the_given_codes_come_first_and_both_parts_row_by_row(mask: Tensor) -> None:
    ordered = Ordered.of(mask)
    for order, masked, cells in zip(ordered.order, ordered.masked, mask.flatten(1), strict=True):
        kept = [place for place, drawn in enumerate(cells.tolist()) if not drawn]
        drawn = [place for place, drawn in enumerate(cells.tolist()) if drawn]
        assert order.tolist() == kept + drawn
        assert masked.tolist() == [False] * len(kept) + [True] * len(drawn)


@pytest.fixture(scope="module")
def masks() -> Tensor:
    torch.manual_seed(0)
    return random_masks(4000, (5, 6), CPU)


def is_rectangle(mask: Tensor) -> bool:
    return bool(mask.any()) and torch.equal(mask, mask.any(dim=1)[:, None] & mask.any(dim=0))


def test_half_of_the_masks_are_of_the_whole_grid(masks: Tensor) -> None:
    assert masks.shape == (4000, 5, 6)
    # Beside them, now and then a rectangle that reaches from corner to corner: 4 % of a quarter at most.
    share = masks.flatten(1).all(dim=1).float().mean()
    assert WHOLE - 0.03 < share < WHOLE + 0.05


def test_of_the_others_half_are_rectangles_and_half_scattered(masks: Tensor) -> None:
    parts = masks[~masks.flatten(1).all(dim=1)]
    connected = torch.tensor([is_rectangle(mask) for mask in parts])
    # Some of those scattered are a single code, which is a rectangle too.
    assert 0.47 < connected.float().mean() < 0.56
    scattered = parts[~connected].float()
    assert (scattered.mean(dim=(1, 2)) < 0.1).any()
    assert (scattered.mean(dim=(1, 2)) > 0.9).any()
    assert not parts.flatten(1).any(dim=1).all()
    # Wherever it lies, a code is drawn and given often.
    assert ((parts.float().mean(dim=0) - 0.5).abs() < 0.25).all()


def test_rectangles_are_of_every_size_and_place(masks: Tensor) -> None:
    rectangles = [mask for mask in masks if is_rectangle(mask)]
    spans = {tuple(axis.nonzero()[[0, -1], 0].tolist()) for mask in rectangles for axis in [mask.any(dim=0)]}
    assert spans == {(first, last) for first in range(6) for last in range(first, 6)}


def test_a_grid_of_a_single_code_has_masks_too() -> None:
    torch.manual_seed(0)
    shares = random_masks(1000, (1, 1), CPU).float().mean()
    assert 0.8 < shares < 0.95


def test_of_codes_with_levels_a_rectangle_has_all() -> None:
    torch.manual_seed(0)
    masks = random_masks(400, (4, 3, 2), CPU)
    first, second = masks.unbind(dim=3)
    alike = [mask for mask, other in zip(first, second, strict=True) if torch.equal(mask, other)]
    # All but the scattered ones, a quarter.
    assert 0.7 < len(alike) / len(masks) < 0.85
    assert sum(is_rectangle(mask) for mask in alike) > 0.9 * len(alike)
    assert Ordered.of(masks[:1]).order.shape == (1, 24)


def test_of_a_sequence_a_part_is_masked() -> None:
    torch.manual_seed(0)
    masks = random_masks(100, (6,), CPU)
    assert masks.shape == (100, 6)
    assert 0.4 < masks.all(dim=1).float().mean() < 0.7


@pytest.mark.parametrize("label", [None, 1])
def test_the_codes_to_be_drawn_have_probabilities_that_sum_to_one(label: int | None) -> None:
    network = priors.prior(size=2, grid=(2, 2))
    codes = torch.tensor([[1, 0], [0, 1]])
    for mask in priors.masks((2, 2)):
        grids = priors.every(2, codes, mask)
        found = priors.probabilities(network, grids, mask, label)
        assert len(found) == 2 ** int(mask.sum())
        assert float(found.sum()) == pytest.approx(1, abs=1e-5)


def test_whole_images_have_probabilities_of_their_own() -> None:
    network = priors.prior(size=2, grid=(2, 2))
    whole = torch.ones(2, 2, dtype=torch.bool)
    found = priors.probabilities(network, priors.every(2, torch.zeros(2, 2).long(), whole), whole, 0)
    assert len(found.unique()) == 16


def test_a_code_is_drawn_by_those_that_are_kept_wherever_they_are() -> None:
    network = priors.prior(size=2, grid=(2, 2))
    mask = torch.tensor([[True, False], [False, False]])
    found = []
    for place in range(4):
        codes = torch.zeros(4).long()
        codes[place] = int(place > 0)
        found.append(priors.probabilities(network, codes.view(1, 2, 2), mask, 0))
    assert len(torch.cat(found).unique()) == 4


def test_a_code_is_expected_by_its_place_and_that_of_the_last() -> None:
    codes = torch.zeros(1, 2, 2).long()
    kept = [torch.tensor([[[True, True], [True, True]]]), torch.tensor([[[True, True], [True, True]]])]
    kept[0][0, 0, 0] = kept[0][0, 1, 1] = kept[1][0, 0, 1] = kept[1][0, 1, 1] = False
    first, second = (Ordered.of(mask) for mask in kept)
    # Both have the last place second, after another one.
    assert (first.order[0, :2].tolist(), second.order[0, :2].tolist()) == ([0, 3], [1, 3])
    for table, position in (("last_place", 0), ("next_place", 1)):
        network = priors.prior(size=2, grid=(2, 2), classes=0)
        getattr(network, table).weight.zero_()
        label = torch.zeros(1).long()
        found = [network(codes, label, ordered)[0, position] for ordered in (first, second)]
        # The other table tells them apart.
        assert abs(float(found[0] - found[1])) > 1e-3


def nats(network: CodePrior, codes: Tensor, labels: list[int]) -> Tensor:
    return network(codes, torch.tensor(labels), Ordered.of(torch.ones_like(codes, dtype=torch.bool)))


def test_the_class_decides_what_is_expected() -> None:
    network = priors.prior()
    codes = priors.codes_of(network, 1).expand(4, -1, -1)
    assert network.no_label == 3
    assert len(nats(network, codes, [0, 1, 2, 3])[:, 0].unique()) == 4


def test_without_classes_there_is_one_label_for_none() -> None:
    network = priors.prior(classes=0)
    assert network.no_label == 0
    codes = priors.codes_of(network, 2)
    assert nats(network, codes, [0, 0]).shape == (2, 6)
    with pytest.raises(IndexError):
        nats(network, codes, [0, 1])


def test_a_code_tells_of_itself_only_to_later_ones() -> None:
    network = priors.prior()
    codes = priors.codes_of(network, 1)
    other = codes.clone()
    other[0, 1, 0] = (other[0, 1, 0] + 1) % network.size
    before, after = nats(network, codes, [1]), nats(network, other, [1])
    torch.testing.assert_close(after[:, :3], before[:, :3])
    assert (after[:, 3:] != before[:, 3:]).all()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 63))
def test_the_nats_are_in_the_order_in_which_the_codes_are_predicted(number: int) -> None:
    network = priors.prior()
    mask = torch.tensor([bool(number >> cell & 1) for cell in range(6)]).view(1, 2, 3)
    codes, ordered = priors.codes_of(network, 1), Ordered.of(mask)
    found = network(codes, torch.tensor([0]), ordered)[0]
    for position, place in enumerate(ordered.order[0].tolist()):
        # Of all codes at this place, the others as they are, the nats are those of a distribution.
        grids = codes.repeat(network.size, 1, 1)
        grids.flatten(1)[:, place] = torch.arange(network.size)
        alike = Ordered(*(part.expand(network.size, -1) for part in ordered))
        column = network(grids, torch.zeros(network.size).long(), alike)[:, position]
        assert float(column.neg().exp().sum()) == pytest.approx(1, abs=1e-5)
        assert float(column[codes.flatten()[place]]) == pytest.approx(float(found[position]), abs=1e-5)


def test_a_new_prior_expects_almost_anything_alike() -> None:
    torch.manual_seed(0)
    network = CodePrior(64, (3, 3), 10, width=32, blocks=2, heads=4, dropout=0)
    found = nats(network, priors.codes_of(network, 20), [10] * 20)
    torch.testing.assert_close(found, torch.full_like(found, 64).log(), rtol=0.15, atol=0)


def test_a_tied_prior_reads_the_rows_that_it_predicts_and_has_them_once() -> None:
    prior = CodePrior(5, (2, 2), 0, width=8, blocks=1, heads=2, dropout=0.0, tied=True)
    copied = copy.deepcopy(prior)
    read = copied.code(torch.arange(6))
    assert torch.equal(read[:5], copied.head.weight)
    assert not torch.equal(read[5], read[4])
    assert prior.state_dict().keys() == copied.state_dict().keys()
    assert "code.weight" not in prior.state_dict()
    copied.head.weight.detach().zero_()
    assert not copied.code(torch.arange(5)).any()
    assert prior.code(torch.arange(5)).any()
