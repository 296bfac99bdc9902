"""What of the service on Ray Serve needs no cluster; tests/e2e/test_cluster.py starts one."""

import asyncio
import importlib
import pickle
import sys
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pytest
from starlette.types import Message, Receive, Scope, Send

from service.errors import ReloadFailed
from service.models.reload import Reload
from service.settings import Settings

pytest.importorskip("ray.serve")
cluster = pytest.importorskip("service.cluster")
# It takes Ray a second to be imported.
pytestmark = pytest.mark.slow


class Replicas:
    """A deployment whose replicas have these results of ``prepare``; an exception is a replica that ended."""

    def __init__(self, *prepared: Any) -> None:
        self.prepared, self.topics = prepared, list[str]()

    def broadcast(self, method: str, topic: str) -> Any:
        assert method == "query"
        self.topics.append(topic)
        results = self.prepared if topic in ("prepare", "versions") else [None] * len(self.prepared)
        replies = [
            result if isinstance(result, ConnectionError) else (f"replica-{index}", result)
            for index, result in enumerate(results)
        ]

        async def results_async(**_: Any) -> list[Any]:
            return replies

        return SimpleNamespace(results_async=results_async)


@pytest.mark.parametrize(
    ("prepared", "then"),
    [
        ([Reload(good={"a": "1"}), Reload(good={"a": "1"})], "commit"),
        ([Reload(good={"a": "1"}), ConnectionError("it ended")], "commit"),
        ([Reload(good={"a": "1"}), Reload(good={"a": "2"})], "abandon"),
        ([Reload(good={"a": "1"}), OSError("the folder is not mounted")], "abandon"),
        ([ConnectionError("it ended")], "abandon"),
    ],
    ids=["equal", "one ended", "different", "one failed", "none left"],
)
def test_all_replicas_swap_or_none(monkeypatch: pytest.MonkeyPatch, prepared: list[Any], then: str) -> None:
    replicas = Replicas(*prepared)
    monkeypatch.setattr(cluster.serve, "get_deployment_handle", lambda *_: replicas)
    outcome = asyncio.run(cluster.Reloader().reload("Tessera", "default"))
    assert replicas.topics == ["prepare", then]
    assert isinstance(outcome, Reload if then == "commit" else ReloadFailed)


def test_ray_can_pickle_every_message() -> None:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await send({"type": "http.response.body", "body": np.frombuffer(b"bc", np.uint8).data})

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError

    replica = object.__new__(cluster.Replica)
    replica._app = SimpleNamespace(asgi=app)
    asyncio.run(replica.__serve_build_asgi_app__()({"type": "http"}, receive, send))
    assert pickle.dumps(sent)
    assert [each.get("body") for each in sent] == [None, b"a", b"bc"]


@pytest.mark.parametrize("versions", [({"a": "1"}, {"a": "1"}), ({"a": "1"}, {"a": "2"})])
def test_a_new_replica_that_serves_other_versions_has_all_reload(
    monkeypatch: pytest.MonkeyPatch, versions: tuple[dict[str, str], ...]
) -> None:
    asked = []

    async def reload(*deployment: str) -> Reload:
        asked.append(deployment)
        return Reload()

    actor = SimpleNamespace(reload=SimpleNamespace(remote=reload))
    context = SimpleNamespace(replica_tag="new", deployment="Tessera", app_name="default")
    monkeypatch.setattr(cluster.serve, "get_replica_context", lambda: context)
    monkeypatch.setattr(cluster.serve, "get_deployment_handle", lambda *_: Replicas(*versions))
    monkeypatch.setattr(cluster.serve, "get_deployment_actor", lambda _: actor)
    asyncio.run(cluster.ReplicaChannel(Settings()).agree())
    assert asked == ([] if versions[0] == versions[1] else [("Tessera", "default")])


@pytest.mark.parametrize(
    ("name", "value", "detail"),
    [
        ("TESSERA_METRICS", "8001", "TESSERA_METRICS: .* key or open, not a port"),
        ("TESSERA_MODLES", "x", "'TESSERA_MODLES' is no setting; did you mean 'TESSERA_MODELS'"),
        ("TESSERA_THREADS", "-1", "TESSERA_THREADS: .*, not '-1'"),
    ],
)
def test_a_wrong_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, detail: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(click.ClickException, match=detail):
        cluster.app({})


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "service.cluster")
    detail = r"^service\.cluster: ray is not installed; it comes with the extra: pip install '\.\[cluster\]'$"
    with pytest.raises(ModuleNotFoundError, match=detail):
        importlib.import_module("service.cluster")
