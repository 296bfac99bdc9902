"""The table of roles: each row agrees with itself."""

import pytest

from service.contract.manifest import CodesSpec, ImageSpec, Input
from service.contract.roles import Role, Source

IMAGE = ImageSpec(channels=3, height=8, width=16, multiple_of=4)
GRID = CodesSpec(dtype="int32", shape=(2, 4), stride=4, codebook_size=9)


@pytest.mark.parametrize("role", Role)
def test_a_row_agrees_with_itself(role: Role) -> None:
    spec = role.spec
    assert spec.is_input or spec.is_output
    assert (spec.draw is not None) == (spec.source is Source.SEED)
    for other in (spec.needs, spec.fill_beside):
        assert other is None or other in list(Role)
    if isinstance(spec.fill, int):
        assert set(spec.axes) <= {"codes"}, "the runner knows the size of no image that was not given"
    assert f"``{role}``" in str(Role.__doc__)
    assert spec.note in str(Role.__doc__)


@pytest.mark.parametrize(
    ("role", "expected", "of_any_size"),
    [
        (Role.images, ("uint8", (8, 16, 3)), (-1, -1, 3)),
        (Role.codes, ("int32", (2, 4)), (-1, -1)),
        (Role.mask, ("bool", (2, 4)), (-1, -1)),
        (Role.states, ("int32", (-1, 2, 4)), (-1, -1, -1)),
        (Role.label, ("int64", ()), ()),
        (Role.fraction, ("float32", ()), ()),
    ],
)
def test_dtype_and_shape(
    role: Role, expected: tuple[str, tuple[int, ...]], of_any_size: tuple[int, ...]
) -> None:
    assert GRID.row(role, IMAGE) == expected
    assert GRID.row(role, IMAGE, any_size=True) == (expected[0], of_any_size)


def test_only_noise_is_drawn() -> None:
    with pytest.raises(TypeError, match="'x' of role codes is not noise"):
        Input(name="x", role=Role.codes).draw  # noqa: B018 - it raises
