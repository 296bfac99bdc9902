"""Whose turn it is to take a connection."""

import multiprocessing

from service.turns import Turns, shared


def test_who_is_alone_has_every_turn() -> None:
    turns = Turns()
    assert turns.is_ours
    turns.enter()
    turns.take()
    assert turns.is_ours


def test_who_has_taken_fewer_is_next() -> None:
    taken = shared(multiprocessing.get_context("spawn"), 3)
    workers = [Turns(taken, index) for index in range(3)]
    for worker in workers:
        worker.enter()
    assert [worker.is_ours for worker in workers] == [True, True, True]
    workers[0].take()
    workers[2].take()
    assert [worker.is_ours for worker in workers] == [False, True, False]
    workers[1].take()
    assert [worker.is_ours for worker in workers] == [True, True, True]


def test_who_is_not_there_has_no_turn() -> None:
    taken = shared(multiprocessing.get_context("spawn"), 2)
    here, absent = Turns(taken, 0), Turns(taken, 1)
    here.enter()
    for _ in range(5):
        here.take()
    assert here.is_ours
    absent.take()
    assert here.is_ours, "to take one while it leaves makes nobody present"


def test_who_comes_later_does_not_get_all_that_others_had() -> None:
    taken = shared(multiprocessing.get_context("spawn"), 2)
    first, second = Turns(taken, 0), Turns(taken, 1)
    first.enter()
    for _ in range(5):
        first.take()
    second.enter()
    assert first.is_ours
    assert second.is_ours
    second.take()
    assert not second.is_ours
    first.leave()
    assert second.is_ours


def test_all_who_start_together_are_expected() -> None:
    taken = shared(multiprocessing.get_context("spawn"), 2)
    first, second = Turns(taken, 0), Turns(taken, 1)
    assert not first.is_complete
    first.enter()
    assert not first.is_complete
    second.enter()
    assert first.is_complete
    second.leave()
    assert first.is_complete, "nobody waits for one that starts again"
