import pytest

from trainer.errors import ConfigError, DataError, TrainerError, nearest


def test_wrong_usage_exits_with_2_and_everything_else_with_1() -> None:
    assert ConfigError("x").exit_code == 2
    assert DataError("x").exit_code == TrainerError("x").exit_code == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [("cifar", " Did you mean 'CIFAR10'?"), ("FASHION", " Did you mean 'fashion'?"), ("zzz", "")],
)
def test_nearest_is_like_the_name_in_any_case(name: str, expected: str) -> None:
    assert nearest(name, ["CIFAR10", "fashion"]) == expected
