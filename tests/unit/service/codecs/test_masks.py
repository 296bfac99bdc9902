from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.codecs import masks
from service.codecs.masks import Box
from service.contract.manifest import CodesSpec, Manifest
from service.errors import BadValue
from service.models.model import ServedModel

EYE = np.eye(7, dtype=np.bool_)


@pytest.fixture(scope="module")
def manifest(quilt: ServedModel) -> Manifest:
    """28 x 28 pixels, 7 x 7 codes with a stride of 4."""
    return quilt.manifest


def with_image(manifest: Manifest, **changes: Any) -> Manifest:
    return manifest.model_copy(update={"image": manifest.image.model_copy(update=changes)})


def cells(left: int, top: int, right: int, bottom: int) -> NDArray[np.bool_]:
    grid = np.zeros((7, 7), np.bool_)
    grid[top:bottom, left:right] = True
    return grid


@pytest.mark.parametrize("kind", [bool, int])
def test_a_mask_of_true_and_false_or_one_and_zero(manifest: Manifest, kind: type) -> None:
    one = [[kind(value) for value in row] for row in EYE.tolist()]
    other = [[kind(not value) for value in row] for row in EYE.tolist()]
    np.testing.assert_array_equal(masks.from_json(one, manifest, 1), [EYE])
    np.testing.assert_array_equal(masks.from_json([one, other], manifest, 2), [EYE, ~EYE])
    # One applies to all.
    np.testing.assert_array_equal(masks.from_json(one, manifest, 3), [EYE] * 3)
    np.testing.assert_array_equal(masks.from_json([other], manifest, 2), [~EYE] * 2)
    assert masks.from_json(one, manifest, 1).dtype == np.bool_


def test_a_mask_of_a_vector(manifest: Manifest) -> None:
    codes = CodesSpec(dtype="float32", shape=(3,))
    vectors = manifest.model_copy(update={"codes": codes})
    assert masks.from_json([1, 0, 1], vectors, 1).tolist() == [[True, False, True]]
    assert masks.from_json([[1, 0, 1], [0, 0, 0]], vectors, 2).tolist() == [[True, False, True], [False] * 3]


def changed(row: int, column: int, value: Any) -> list[list[Any]]:
    mask = EYE.tolist()
    mask[row][column] = value
    return mask


@pytest.mark.parametrize(
    ("mask", "complaint"),
    [
        ([], r"mask of shape \[0\]; .* have the shape \[7, 7\], so a mask is \[7, 7\] or \[N, 7, 7\]"),
        ([[1]], r"mask of shape \[1, 1\]"),
        ([1] * 49, r"mask of shape \[49\]"),
        ([[EYE.tolist()]], r"mask of shape \[1, 1, 7, 7\]"),
        ([[1, 0], [1]], r"the lists are ragged: mask\[1\] has length 1"),
        (changed(2, 5, 2), r"mask\[2\]\[5\] is 2; it must be true or 1 where a code is sampled"),
        (changed(0, 1, -1), r"mask\[0\]\[1\] is -1"),
        (changed(0, 1, 1.0), r"mask\[0\]\[1\] is 1\.0"),
        (changed(0, 1, "1"), r"mask\[0\]\[1\] is '1'"),
        (changed(0, 1, None), r"mask\[0\]\[1\] is None"),
        ([EYE.tolist()] * 2, r"2 masks for 3 rows of codes; give one for all, or one for each"),
        (cells(0, 0, 0, 0).tolist(), "the mask samples nothing"),
    ],
)
def test_what_is_no_mask(manifest: Manifest, mask: list[Any], complaint: str) -> None:
    with pytest.raises(BadValue, match=complaint):
        masks.from_json(mask, manifest, 3)


def test_boxes_are_read_alike() -> None:
    one, other = Box(0, 14, 28, 28), Box(-1, 2, 3, 4)
    assert masks.boxes_from_json([0, 14, 28, 28]) == masks.boxes_from_query(["0,14,28,28"]) == [one]
    assert masks.boxes_from_json([list(one), list(other)]) == [one, other]
    assert masks.boxes_from_query([" 0, 14, 28, 28", "-1,2,3,4"]) == [one, other]


@pytest.mark.parametrize(
    "box",
    [
        [],
        [1, 2, 3],
        [1, 2, 3, 4, 5],
        [1, 2, 3, 4.0],
        [True, 2, 3, 4],
        ["1", 2, 3, 4],
        [[1, 2, 3, 4], 5],
        [[]],
    ],
)
def test_what_is_no_box_in_json(box: list[Any]) -> None:
    with pytest.raises(BadValue, match=r"box is \[left, top, right, bottom\] in whole pixels"):
        masks.boxes_from_json(box)


@pytest.mark.parametrize(
    "text", ["", "1,2,3", "1,2,3,4,5", "1;2;3;4", "1,2,3,4.5", "a,b,c,d", "1,2,3,9999999999"]
)
def test_what_is_no_box_in_a_query(text: str) -> None:
    with pytest.raises(BadValue, match=r"box is left,top,right,bottom in whole pixels"):
        masks.boxes_from_query(["0,0,1,1", text])


@settings(max_examples=200, deadline=None)
@given(*[st.integers(-3, 31)] * 4)
def test_at_the_own_size_a_box_masks_just_the_codes_it_touches(
    manifest: Manifest, left: int, top: int, right: int, bottom: int
) -> None:
    # Pixel by pixel: those of the box, and the patch that each is in.
    touched = {(y // 4, x // 4) for y in range(top, bottom) for x in range(left, right)}
    box = Box(left, top, right, bottom)
    if not touched or min(box) < 0 or max(box) > 28:
        with pytest.raises(BadValue, match=r"within \[0, 0, 28, 28\]"):
            masks.from_boxes([box], [(28, 28)], manifest)
    else:
        (mask,) = masks.from_boxes([box], [(28, 28)], manifest)
        assert {(int(row), int(column)) for row, column in np.argwhere(mask)} == touched


@pytest.mark.parametrize(
    ("fit", "size", "box", "expected"),
    [
        # Half the height, twice the width: the right half is the right half.
        ("stretch", (56, 14), (28, 0, 56, 14), (3, 0, 7, 7)),
        ("stretch", (14, 56), (0, 0, 14, 8), (0, 0, 7, 2)),
        # The middle 28 of 44 columns are left, the first of them is column 8.
        ("crop", (44, 28), (0, 0, 10, 28), (0, 0, 1, 7)),
        ("crop", (44, 28), (16, 4, 20, 8), (2, 1, 3, 2)),
        ("crop", (28, 44), (0, 35, 28, 44), (0, 6, 7, 7)),
        # Twelve rows, with eight of paper above and below.
        ("pad", (28, 12), (0, 0, 28, 12), (0, 2, 7, 5)),
        ("pad", (28, 12), (4, 0, 8, 4), (1, 2, 2, 3)),
        ("pad", (12, 28), (8, 0, 12, 28), (4, 0, 5, 7)),
    ],
)
def test_a_box_is_where_the_rule_moves_it(
    manifest: Manifest, fit: str, size: tuple[int, int], box: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    spec = with_image(manifest, fit=fit, background=255)
    (mask,) = masks.from_boxes([Box(*box)], [size], spec)
    np.testing.assert_array_equal(mask, cells(*expected))


def test_a_resized_edge_spreads_into_the_next_code(manifest: Manifest) -> None:
    # Rows 32 to 55 of 56 are rows 16 to 27 of 28, and bilinear gives row 15 an eighth of row 32.
    (mask,) = masks.from_boxes([Box(0, 32, 56, 56)], [(56, 56)], manifest)
    np.testing.assert_array_equal(mask, cells(0, 3, 7, 7))


def test_each_picture_has_its_own_size_and_may_have_its_own_box(manifest: Manifest) -> None:
    sizes, spec = [(28, 28), (14, 14)], with_image(manifest, filter="box")
    shared = masks.from_boxes([Box(0, 0, 14, 4)], sizes, spec)
    np.testing.assert_array_equal(shared, [cells(0, 0, 4, 1), cells(0, 0, 7, 2)])
    own = masks.from_boxes([Box(0, 0, 4, 4), Box(12, 12, 14, 14)], sizes, spec)
    np.testing.assert_array_equal(own, [cells(0, 0, 1, 1), cells(6, 6, 7, 7)])
    with pytest.raises(BadValue, match="2 boxes for 3 images; give one for all, or one for each"):
        masks.from_boxes([Box(0, 0, 4, 4)] * 2, [(28, 28)] * 3, manifest)
    with pytest.raises(BadValue, match=r"\[20, 0, 28, 4\] is not a part of image 1 of 2, which is 14 pixels"):
        masks.from_boxes([Box(20, 0, 28, 4)], sizes, manifest)


@pytest.mark.parametrize(
    "box",
    [
        *((4, 4, 4, 8), (8, 4, 4, 8), (4, 8, 8, 4)),
        *((28, 0, 30, 28), (-9, 0, 0, 28), (0, 40, 28, 50)),
        *((0, 0, 29, 30), (0, 0, 28, 31), (-1, 0, 28, 30), (0, -1, 28, 30), (14, 14, 999, 999)),
    ],
)
def test_a_box_that_is_empty_or_goes_past_the_image(manifest: Manifest, box: tuple[int, ...]) -> None:
    complaint = "not a part of the image, which is 28 pixels wide and 30 high .*; a box is .* within"
    with pytest.raises(BadValue, match=complaint) as caught:
        masks.from_boxes([Box(*box)], [(28, 30)], manifest)
    assert caught.value.members == {"given": list(box), "allowed": [0, 0, 28, 30]}


def test_a_box_that_is_cut_off(manifest: Manifest) -> None:
    spec = with_image(manifest, fit="crop")
    complaint = r"box \[0, 0, 8, 28\] covers no code: nothing of it is left when the image, 44 pixels wide"
    with pytest.raises(BadValue, match=complaint):
        masks.from_boxes([Box(0, 0, 8, 28)], [(44, 28)], spec)


def test_a_box_too_small_to_be_seen(manifest: Manifest) -> None:
    with pytest.raises(BadValue, match="covers no code"):
        masks.from_boxes([Box(500, 500, 501, 501)], [(1000, 1000)], manifest)


def test_codes_without_a_place_in_the_image(colours: ServedModel) -> None:
    with pytest.raises(
        BadValue, match=r"'colours' have no place in the image .*no stride.*send codes and a mask"
    ):
        masks.from_boxes([Box(0, 0, 4, 4)], [(8, 8)], colours.manifest)
