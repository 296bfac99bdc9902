"""One worker's way to all, with the supervisor's end of the pipe in the test's hand."""

import asyncio
import multiprocessing
import pickle
from collections.abc import Iterator
from multiprocessing.connection import Connection

import pytest

from service.crew import Answer, Answers, Crew, Question, Started
from service.errors import NotReady, Overloaded, Problem

PATIENCE = 10.0


class Pair:
    """A worker with others, and what its supervisor sees."""

    def __init__(self) -> None:
        self.supervisor, pipe = multiprocessing.Pipe()
        self.crew = Crew(pipe, 3)

    def told(self) -> object:
        assert self.supervisor.poll(PATIENCE)
        return self.supervisor.recv()


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.supervisor.close()


def test_a_worker_alone_asks_itself() -> None:
    crew = Crew()
    crew.on("count", lambda: 1)
    crew.tell(Started())
    assert crew.is_alone
    assert asyncio.run(crew.ask("count")) == [1]


def test_every_worker_is_asked_and_the_asker_comes_first(pair: Pair) -> None:
    pair.crew.on("name", lambda: "own")

    async def main() -> list[object]:
        asked = asyncio.create_task(pair.crew.ask("name", PATIENCE))
        question = await asyncio.to_thread(pair.told)
        assert isinstance(question, Question)
        assert question.topic == "name"
        pair.supervisor.send(Answers(question.number, ["another", "a third"]))
        return await asked

    assert asyncio.run(main()) == ["own", "another", "a third"]
    assert not pair.crew.is_alone


def test_questions_of_others_are_answered(pair: Pair) -> None:
    pair.crew.on("name", lambda: "own")
    pair.supervisor.send(Question(7, "name"))
    assert pair.told() == Answer(7, "own")


@pytest.mark.parametrize(
    "problem", [NotReady("not yet", given=1), Overloaded("full", retry_after=3, given=2)]
)
def test_a_problem_is_told_as_it_is(pair: Pair, problem: Problem, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise problem

    pair.crew.on("fail", fail)
    pair.supervisor.send(Question(7, "fail"))
    answer = pair.told()
    assert isinstance(answer, Answer)
    assert type(answer.said) is type(problem)
    assert answer.said.document("/x") == problem.document("/x")
    assert answer.said.headers == problem.headers
    assert "worker 3 failed to fail" in caplog.text
    assert str(pickle.loads(pickle.dumps(problem))) == problem.detail  # noqa: S301 - just written


def test_who_asks_is_not_kept_waiting_for_ever(pair: Pair) -> None:
    pair.crew.on("name", lambda: "own")
    with pytest.raises(TimeoutError):
        asyncio.run(pair.crew.ask("name", 0.05))
    question = pair.told()
    assert isinstance(question, Question)
    # Nobody waits for it any more, and the next one is heard.
    pair.supervisor.send(Answers(question.number, []))
    pair.supervisor.send(Question(8, "name"))
    assert pair.told() == Answer(8, "own")


def test_a_worker_knows_when_its_supervisor_is_gone() -> None:
    supervisor: Connection
    supervisor, pipe = multiprocessing.Pipe()
    crew = Crew(pipe)

    async def main() -> None:
        loop, gone = asyncio.get_running_loop(), asyncio.Event()

        def heard() -> None:
            loop.call_soon_threadsafe(gone.set)

        crew.gone = heard
        supervisor.close()
        await asyncio.wait_for(gone.wait(), PATIENCE)

    asyncio.run(main())
