"""The clients against a service that a test plays. Against a real one: ``tests/e2e/test_library.py``."""

import asyncio
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from httpx2 import MockTransport, Request, Response
from numpy.typing import NDArray

import tessera
from service.api.app import create_app
from service.codecs import npy
from service.errors import (
    BadCodes,
    BadValue,
    Overloaded,
    StartupError,
    TooLarge,
    UnknownModel,
    VersionConflict,
)
from service.settings import Settings
from tests.fixtures import completion_model, latents_model
from tests.fixtures.library_calls import calls_of, outcome
from tests.unit.tessera.test_arguments import MISTAKES

NOISE = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1), dtype=np.uint8)
URL = "http://service"


class AppTransport(httpx2.BaseTransport):
    """Requests to the app of the service in this process, and what they were."""

    def __init__(self, models: Path, **settings: Any) -> None:
        app = create_app(Settings(models=(str(models),), provider="cpu", threads=1, **settings))
        self._transport = httpx2.ASGITransport(app.asgi)
        self.requests: list[httpx2.Request] = []

    def handle_request(self, request: Request) -> Response:
        self.requests.append(request)

        async def response() -> Response:
            given = await self._transport.handle_async_request(request)
            return Response(given.status_code, headers=given.headers, content=await given.aread())

        return asyncio.run(response())


@pytest.fixture(scope="module")
def service(folder: Path) -> AppTransport:
    return AppTransport(folder, max_images=3, max_total_pixels=2**20, default_model="levels")


@pytest.fixture
def client(service: AppTransport) -> Iterator[tessera.Client]:
    service.requests.clear()
    with tessera.Client(URL, transport=service) as client:
        yield client


@pytest.mark.parametrize(("call", "detail"), MISTAKES)
def test_a_mistake_is_what_it_is_without_a_service(
    client: tessera.Client, call: Callable[[tessera.Tokenizer], object], detail: str
) -> None:
    with pytest.raises(BadValue, match=detail):
        call(client)


def equal(found: NDArray[Any] | None, expected: NDArray[Any] | None) -> None:
    assert found is not None
    assert expected is not None
    np.testing.assert_array_equal(found, expected, strict=True)


def test_a_large_batch_is_sent_in_parts(
    client: tessera.Client, service: AppTransport, levels: tessera.Tokenizer
) -> None:
    codes = client.encode(NOISE)
    equal(codes, levels.encode(NOISE))
    assert [request.url.path for request in service.requests] == ["/models", "/encode", "/encode"]
    equal(client.decode(codes), levels.decode(codes))
    made, expected = client.reconstruct(list(NOISE)), levels.reconstruct(NOISE)
    equal(made.images, expected.images)
    equal(made.psnr, expected.psnr)


def test_the_noise_of_a_batch_in_parts_is_that_of_the_whole(
    service: AppTransport, wanderer: tessera.Tokenizer
) -> None:
    pictures = np.random.default_rng(1).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    with tessera.Client(URL, model="wanderer", transport=service) as client:
        equal(client.encode(pictures, seed=3), wanderer.encode(pictures, seed=3))
        found, expected = (each.score(pictures, seed=3, samples=5) for each in (client, wanderer))
        assert found.parameters == expected.parameters
        for name, figure in expected.figures.items():
            equal(found.figures[name], figure)
        one, other = (
            each.sample(7, method="stroll", seed=3, steps=4, every=2) for each in (client, wanderer)
        )
        equal(one.images, other.images)
        equal(one.states, other.states)
        equal(one.state_images, other.state_images)
        # A seed that the client draws is one for all parts.
        drawn = client.sample(5, method="stroll", steps=4)
        equal(drawn.images, wanderer.sample(5, method="stroll", steps=4, seed=drawn.seed).images)


def test_grids_of_continuous_codes_are_the_same_in_parts(tmp_path: Path) -> None:
    local = tessera.load(latents_model.write(tmp_path), provider="cpu", threads=1)
    with tessera.Client(URL, transport=AppTransport(tmp_path, max_images=2)) as client:
        for call in calls_of(local.info()):
            assert outcome(call, client) == outcome(call, local), call.name


def test_completions_in_parts(service: AppTransport, patchwork: tessera.Tokenizer) -> None:
    shape = patchwork.info().codes.shape
    codes = np.random.default_rng(2).integers(0, 16, (4, *shape))
    mask = np.random.default_rng(3).integers(0, 2, (4, *shape))
    pictures = np.random.default_rng(4).integers(0, 256, (4, 28, 28, 1), dtype=np.uint8)
    boxes = [(0, 0, 14, 28), (14, 0, 28, 28), (0, 14, 28, 28), (0, 0, 28, 14)]
    calls: list[Callable[[tessera.Tokenizer], tessera.Samples]] = [
        lambda model: model.complete(codes=codes, mask=mask, seed=1),
        lambda model: model.complete(codes=codes, mask=mask[0], label=[0, 1, 0, 1], seed=1),
        lambda model: model.complete(pictures, box=boxes, seed=1),
        lambda model: model.complete(list(pictures), box=boxes[0], seed=1),
        lambda model: model.complete(pictures[0], box=boxes[0], n=7, seed=1, label=1),
    ]
    with tessera.Client(URL, model="patchwork", transport=service) as client:
        for call in calls:
            found, expected = call(client), call(patchwork)
            equal(found.codes, expected.codes)
            equal(found.mask, expected.mask)
            equal(found.images, expected.images)


def test_after_a_part_that_is_too_large_parts_have_half_as_many_rows() -> None:
    """The limits that a service publishes are not all; and an older one publishes none."""
    rows: list[int] = []

    def service(request: Request) -> Response:
        if request.url.path == "/models":
            return Response(200, json={"models": [SUMMARY]})
        images = npy.load(request.content)
        rows.append(len(images))
        if len(images) > 2:
            return problem(413, "too-large", "too many")
        return Response(200, content=npy.dump(images[:, 0, 0].astype(np.int32)))

    with tessera.Client(URL, transport=MockTransport(service)) as client:
        equal(client.encode(NOISE), NOISE[:, 0, 0].astype(np.int32))
    assert rows == [5, 3, 2, 2, 1]


SUMMARY: dict[str, Any] = {
    "name": "levels",
    "version": "0" * 12,
    "kind": "vqvae",
    "default": True,
    "image": {"channels": 1, "height": 8, "width": 8, "unknown": 1},
    "codes": {"dtype": "int32", "shape": [2, 2], "codebook_size": 16},
    "operations": ["encode"],
    "unknown": 1,
}


def problem(status: int, kind: str, detail: str, headers: dict[str, str] | None = None) -> Response:
    document = {"type": f"urn:tessera:{kind}", "title": "T", "status": status, "detail": detail, "more": 1}
    return Response(status, json=document, headers=headers)


def test_an_error_is_that_of_the_service(client: tessera.Client) -> None:
    with pytest.raises(BadCodes, match=r"codes\[0\]\[0\]\[0\] is 99; it must be in 0 to 15") as raised:
        client.decode([[[99, 0], [0, 0]]])
    assert raised.value.status == 422
    assert raised.value.members["allowed"] == [0, 15]


def test_another_version_is_a_conflict(service: AppTransport) -> None:
    with (
        tessera.Client(URL, version="f" * 12, transport=service) as client,
        pytest.raises(VersionConflict, match="is for version 'ffffffffffff'"),
    ):
        client.encode(NOISE[0])


def test_a_model_that_is_not_there(service: AppTransport) -> None:
    with tessera.Client(URL, model="nothing", transport=service) as client:
        for call in (lambda: client.encode(NOISE), lambda: client.encode(NOISE[0]), client.info):
            with pytest.raises(UnknownModel, match="there is no model 'nothing'"):
                call()


def test_a_model_that_comes_later_is_found() -> None:
    listed: list[dict[str, Any]] = []

    def late(request: Request) -> Response:
        if request.url.path == "/models":
            return Response(200, json={"models": listed})
        return Response(200, content=npy.dump(np.zeros((5, 2, 2), np.int32)))

    with tessera.Client(URL, model="levels", transport=MockTransport(late)) as client:
        with pytest.raises(UnknownModel):
            client.encode(NOISE)
        listed.append(SUMMARY)
        assert len(client.encode(NOISE)) == 5


def test_a_method_and_a_default_model_that_a_reload_renames_are_found(tmp_path: Path) -> None:
    old, new = completion_model.write(tmp_path / "old"), completion_model.write(tmp_path / "new")
    manifest = (new / "manifest.json").read_text()
    renamed = manifest.replace('"sample/prior"', '"sample/anew"').replace('"patchwork"', '"quilt"')
    (new / "manifest.json").write_text(renamed)
    new = new.rename(new.with_name("quilt"))
    services = [AppTransport(each.parent) for each in (old, new)]
    transport = MockTransport(lambda request: services[0].handle_request(request))
    with tessera.Client(URL, transport=transport) as client:
        for name, method in (("patchwork", "prior"), ("quilt", "anew")):
            assert client.complete(NOISE[0], box=(0, 0, 28, 28)).method == method
            assert client.info().name == name
            services = services[1:]


def test_the_name_of_a_model_is_a_part_of_the_path() -> None:
    paths: list[bytes] = []

    def service(request: Request) -> Response:
        paths.append(request.url.raw_path)
        return problem(404, "unknown-model", "there is none")

    with (
        tessera.Client(URL, model="levels?a/b#c", transport=MockTransport(service)) as client,
        pytest.raises(UnknownModel),
    ):
        client.info()
    assert paths == [b"/models/levels%3Fa%2Fb%23c"]


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_service_is_asked_again(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    responses = iter(
        [
            problem(status, "overloaded", "the queue is full", {"Retry-After": "2"}),
            problem(status, "overloaded", "the queue is full", {"Retry-After": "3"}),
            Response(200, content=npy.dump(np.zeros((1, 2, 2), np.int32))),
        ]
    )
    with tessera.Client(URL, transport=MockTransport(lambda _: next(responses))) as client:
        assert client.encode(NOISE[0]).shape == (1, 2, 2)
    assert [int(wait) for wait in waits] == [2, 3]


def test_it_is_not_asked_again_after_the_deadline_or_without_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it waits"))
    later = problem(429, "overloaded", "the queue is full", {"Retry-After": "2"})
    with (
        tessera.Client(URL, deadline=1, transport=MockTransport(lambda _: later)) as client,
        pytest.raises(Overloaded, match="the queue is full") as raised,
    ):
        client.encode(NOISE[0])
    assert raised.value.status == 429
    never = problem(503, "unwell", "CUDA failed")
    with (
        tessera.Client(URL, transport=MockTransport(lambda _: never)) as client,
        pytest.raises(tessera.Problem, match="CUDA failed"),
    ):
        client.encode(NOISE[0])


def test_a_closed_connection_is_opened_again_once() -> None:
    attempts: list[Request] = []

    def service(request: Request) -> Response:
        attempts.append(request)
        if len(attempts) == 2:
            return Response(200, content=npy.dump(np.zeros((1, 2, 2), np.int32)))
        raise httpx2.RemoteProtocolError("Server disconnected without sending a response.")

    with tessera.Client(URL, transport=MockTransport(service)) as client:
        assert client.encode(NOISE[0]).shape == (1, 2, 2)
        with pytest.raises(tessera.ConnectionFailed, match="http://service failed: Server disconnected"):
            client.encode(NOISE[0])
    assert len(attempts) == 4


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (httpx2.ConnectError("[Errno 111] Connection refused"), "cannot be reached: .* Connection refused"),
        (httpx2.ReadTimeout(""), r"did not respond within 7 s \(timeout\)"),
        (httpx2.ConnectTimeout(""), r"did not respond within 7 s \(timeout\)"),
    ],
)
def test_a_service_that_is_not_there_is_named(error: httpx2.HTTPError, detail: str) -> None:
    def service(_: Request) -> Response:
        raise error

    with (
        tessera.Client(URL, timeout=7, transport=MockTransport(service)) as client,
        pytest.raises(tessera.ConnectionFailed, match=f"http://service {detail}"),
    ):
        client.encode(NOISE[0])


@pytest.mark.parametrize(
    ("response", "status", "detail"),
    [
        (
            Response(502, text="<html>\nbad gateway"),
            502,
            "responds 502, which is no problem document: '<html> bad",
        ),
        (Response(200, html="<html>"), 200, "responds with text/html; charset=utf-8 that is not of this API"),
    ],
)
def test_a_response_of_something_else(response: Response, status: int, detail: str) -> None:
    with (
        tessera.Client(URL, transport=MockTransport(lambda _: response)) as client,
        pytest.raises(tessera.UnexpectedResponse, match=detail) as raised,
    ):
        client.encode(NOISE[0])
    assert raised.value.status == status


def test_the_key_and_the_path_of_the_url() -> None:
    seen: list[Request] = []

    def service(request: Request) -> Response:
        seen.append(request)
        return Response(200, content=npy.dump(np.zeros((1, 2, 2), np.int32)))

    with tessera.Client(f"{URL}/img/", "secret", model="levels", transport=MockTransport(service)) as client:
        client.encode(NOISE[0], seed=1, label="a b")
    (request,) = seen
    assert str(request.url) == f"{URL}/img/encode?model=levels&label=a+b&seed=1"
    assert request.headers["Authorization"] == "Bearer secret"
    assert "secret" not in repr(client)


@pytest.mark.parametrize(
    ("url", "key", "detail"),
    [
        ("localhost:8000", None, "'localhost:8000' is no URL of a service, such as http://localhost:8000"),
        ("exported/vqvae-mnist", None, "is no URL"),
        ("http://[", None, "is no URL"),
        ("http://host:port", None, "is no URL"),
        (f"{URL}?model=levels", None, "is no URL"),
        (f"{URL}?", None, "is no URL"),
        (f"{URL}\n", None, "is no URL"),
        (URL, "two words", "the key is empty, or has other characters than visible ASCII"),
        (URL, "", "the key is empty"),
    ],
)
def test_what_no_client_can_use(url: str, key: str | None, detail: str) -> None:
    with pytest.raises(StartupError, match=detail):
        tessera.Client(url, key)


@pytest.mark.parametrize(
    "times",
    [{"timeout": given} for given in (None, "5", 0, True, float("inf"), float("nan"))]
    + [{"deadline": given} for given in (None, -1)],
)
def test_times_that_no_client_can_use(times: dict[str, Any]) -> None:
    ((name, given),) = times.items()
    for client in (tessera.Client, tessera.AsyncClient):
        with pytest.raises(StartupError, match=f"{name}={given!r}.*: they must be numbers of seconds"):
            client(URL, **times)


def test_a_deadline_may_be_zero() -> None:
    tessera.Client(URL, timeout=0.5, deadline=0).close()


def test_one_row_that_is_too_large_is_refused() -> None:
    too_large = problem(413, "too-large", "too many pixels")
    with (
        tessera.Client(URL, transport=MockTransport(lambda _: too_large)) as client,
        pytest.raises(TooLarge, match="too many pixels"),
    ):
        client.encode(NOISE[0])


def test_the_other_client_has_the_same_methods() -> None:
    for name, method in inspect.getmembers(tessera.Tokenizer, inspect.isfunction):
        if name.startswith("_") or name == "close":
            continue
        for other in (tessera.Client, tessera.AsyncClient):
            assert inspect.signature(getattr(other, name)) == inspect.signature(method), name
        assert inspect.iscoroutinefunction(getattr(tessera.AsyncClient, name))
    parameters = [list(inspect.signature(each).parameters) for each in (tessera.Client, tessera.AsyncClient)]
    assert parameters[0] == parameters[1]


def test_the_client_with_an_event_loop_waits_and_fails_in_the_same_way() -> None:
    responses = [
        problem(429, "overloaded", "the queue is full", {"Retry-After": "0"}),
        Response(200, content=npy.dump(np.zeros((1, 2, 2), np.int32))),
        problem(422, "bad-codes", "no"),
    ]

    async def calls() -> None:
        transport = MockTransport(lambda _: responses.pop(0))
        async with tessera.AsyncClient(URL, transport=transport) as client:
            assert (await client.encode(NOISE[0])).shape == (1, 2, 2)
            with pytest.raises(BadCodes, match="no"):
                await client.decode([[1]])

    asyncio.run(calls())
