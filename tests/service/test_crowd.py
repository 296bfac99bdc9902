"""Who of several workers has the fewest connections."""

import multiprocessing

from service.crowd import Crowd, shared


def test_who_is_alone_is_always_the_least() -> None:
    crowd = Crowd()
    assert crowd.is_least
    crowd.enter()
    crowd.add(100)
    assert crowd.is_least


def test_the_least_has_no_more_than_any_other() -> None:
    counts = shared(multiprocessing.get_context("spawn"), 3)
    crowds = [Crowd(counts, index) for index in range(3)]
    for crowd in crowds:
        crowd.enter()
    assert [crowd.is_least for crowd in crowds] == [True, True, True]
    crowds[0].add(1)
    crowds[2].add(2)
    assert [crowd.is_least for crowd in crowds] == [False, True, False]
    crowds[2].add(-2)
    assert [crowd.is_least for crowd in crowds] == [False, True, True]


def test_who_is_not_there_is_not_counted() -> None:
    counts = shared(multiprocessing.get_context("spawn"), 2)
    here, absent = Crowd(counts, 0), Crowd(counts, 1)
    here.enter()
    here.add(5)
    assert here.is_least
    absent.add(-1)
    assert here.is_least, "a connection that ends late makes nobody present"
    absent.enter()
    assert not here.is_least
    absent.leave()
    assert here.is_least


def test_all_who_start_together_are_expected() -> None:
    counts = shared(multiprocessing.get_context("spawn"), 2)
    first, second = Crowd(counts, 0), Crowd(counts, 1)
    assert not first.is_complete
    first.enter()
    assert not first.is_complete
    second.enter()
    assert first.is_complete
    second.leave()
    assert first.is_complete, "nobody waits for one that starts again"
