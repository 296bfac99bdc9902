"""``load`` and the clients give the same, bit for bit, on every operation of the models of the repository."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import tessera
from tests.fixtures.library_calls import calls_of, outcome
from tests.fixtures.processes import ROOT, serving

MODELS = sorted(path.parent.name for path in (ROOT / "exported").glob("*/manifest.json"))


# Together they have every method. What an AsyncClient sends and reads is what a Client does.
AWAITED = {"ncp-mnist", "vqvae-mnist"}


class Awaited:
    """An ``AsyncClient`` whose coroutines are awaited, each with an event loop and a client of its own."""

    def __init__(self, url: str, model: str) -> None:
        self._url, self._model = url, model

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def call(*given: Any, **more: Any) -> Any:
            async with tessera.AsyncClient(self._url, model=self._model) as client:
                return await getattr(client, name)(*given, **more)

        return lambda *given, **more: asyncio.run(call(*given, **more))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    flags = ("--provider=cpu", "--threads=1", "--workers=1", "--default-model=vqvae-mnist")
    with serving(ROOT / "exported", *flags) as url:
        yield url


@pytest.mark.parametrize("name", MODELS)
def test_all_give_the_same_on_every_operation(url: str, name: str) -> None:
    local = tessera.load(ROOT / "exported" / name, provider="cpu", threads=1)
    calls = calls_of(local.info())
    assert set().union(*(call.operations for call in calls)) == local.info().operations.keys()
    with tessera.Client(url, model=name) as client:
        for call in calls:
            expected = outcome(call, local)
            assert outcome(call, client) == expected, call
            if name in AWAITED:
                assert outcome(call, Awaited(url, name)) == expected, call  # type: ignore[arg-type]
