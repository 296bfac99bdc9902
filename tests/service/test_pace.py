"""What is known of how long a row takes."""

import pytest

from service.pace import KEPT, Pace


def test_nothing_is_known_of_what_never_ran() -> None:
    pace = Pace[str]()
    pace.add("slow", 2, 10.0)
    assert pace.rows("other", 1e9) == 0


def test_so_many_rows_take_so_long() -> None:
    pace = Pace[str]()
    pace.add("k", 4, 2.0)
    assert [pace.rows("k", seconds) for seconds in (0.4, 0.5, 1.0, 1.6)] == [0, 1, 2, 3]


def test_news_count_and_do_not_count_for_all() -> None:
    pace = Pace[str]()
    pace.add("k", 1, 1.0)
    pace.add("k", 1, 2.0)
    assert pace.rows("k", 110.5) == 100
    for _ in range(100):
        pace.add("k", 1, 2.0)
    assert pace.rows("k", 110.0) == pytest.approx(55, abs=1)


def test_no_more_keys_are_kept_than_a_few_hundred() -> None:
    pace = Pace[int]()
    for key in range(10 * KEPT):
        pace.add(key, 1, 1.0)
    assert sum(pace.rows(key, 1.0) for key in range(10 * KEPT)) <= KEPT
    assert pace.rows(10 * KEPT - 1, 1.0) == 1
