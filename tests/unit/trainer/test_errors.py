import pytest

from trainer.errors import ConfigError, DataError, Interrupted, Terminated, TrainerError, going_on, nearest


def test_wrong_usage_exits_with_2_and_everything_else_with_1() -> None:
    assert ConfigError("x").exit_code == 2
    assert DataError("x").exit_code == TrainerError("x").exit_code == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [("cifar", " Did you mean 'CIFAR10'?"), ("FASHION", " Did you mean 'fashion'?"), ("zzz", "")],
)
def test_nearest_is_like_the_name_in_any_case(name: str, expected: str) -> None:
    assert nearest(name, ["CIFAR10", "fashion"]) == expected


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_an_interruption_names_the_command_that_goes_on(stop: type[BaseException], code: int) -> None:
    kept = r"what was trained is kept\. To go on: this"
    with pytest.raises(Interrupted, match=kept) as caught, going_on(lambda: True, "this"):
        raise stop
    assert caught.value.exit_code == code
    with pytest.raises(stop), going_on(lambda: False, "this"):
        raise stop
