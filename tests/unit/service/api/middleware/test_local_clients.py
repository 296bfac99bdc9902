from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from service.api.middleware.local_clients import why_not_local
from tests.unit.service.conftest import make_client, problem


def scope(*headers: tuple[str, str], host: str = "127.0.0.1:8000", **further: Any) -> dict[str, Any]:
    """A request of a program on this machine, with some more."""
    usual = [("host", host), ("user-agent", "curl/8.5.0"), ("accept", "*/*"), ("x-request-id", "mine")]
    return {
        "client": ("127.0.0.1", 50000),
        "http_version": "1.1",
        "headers": [(name.encode(), value.encode()) for name, value in [*usual, *headers]],
        **further,
    }


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.8.9.1:65535", "[::1]", "[::1]:8000"]
)
def test_programs_on_this_machine_are_local(host: str) -> None:
    for peer in ("127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"):
        assert why_not_local(scope(host=host, client=(peer, 1))) is None


@pytest.mark.parametrize(
    "client", [None, ("192.0.2.7", 1), ("::ffff:192.0.2.7", 1), ("elsewhere", 1), ("", 1)]
)
def test_peers_elsewhere_are_not(client: tuple[str, int] | None) -> None:
    assert why_not_local(scope(client=client)) == "it comes from another machine"


@pytest.mark.parametrize(
    "host",
    [
        "models.example.com",
        "tessera",
        "localhost.example.com",
        "127.0.0.1.example.com",
        "0.0.0.0:8000",
        "192.0.2.7",
        "[::2]",
        "localhost:8000:1",
        "user@localhost",
        "",
    ],
)
def test_names_that_lead_here_are_not(host: str) -> None:
    # As a page has them whose owner changes what DNS says of it (DNS rebinding).
    assert "its Host is" in (why_not_local(scope(host=host)) or "")


def test_one_host_is_needed() -> None:
    assert "its Host is" in (why_not_local({**scope(), "headers": []}) or "")
    assert "its Host is" in (why_not_local(scope(("host", "localhost"))) or "")


@pytest.mark.parametrize(
    "name",
    [
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-forwarded-server",
        "x-original-forwarded-for",
        "x-original-url",
        "x-real-ip",
        "via",
        "cf-connecting-ip",
        "true-client-ip",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-envoy-external-address",
        "x-amzn-trace-id",
        "fastly-client-ip",
        "fly-client-ip",
        "cdn-loop",
        "proxy-connection",
    ],
)
def test_a_request_with_a_proxy_header_is_not_local(name: str) -> None:
    # The value does not matter.
    for value in ("192.0.2.7", "127.0.0.1", ""):
        assert repr(name) in (why_not_local(scope((name, value))) or "")


def test_a_request_through_nginx_with_its_defaults_is_not_local() -> None:
    # It adds no header, and the Host is that of `proxy_pass http://127.0.0.1:8000`.
    assert why_not_local(scope(("connection", "close"), http_version="1.0")) is not None


def test_scripts_of_web_pages_from_elsewhere_are_not() -> None:
    for origin in ("http://evil.example", "null", "", "http://[", "http://localhost.evil.example"):
        assert "the web page" in (why_not_local(scope(("origin", origin))) or "")
    # The page with the documentation has a button for it.
    assert why_not_local(scope(("origin", "http://127.0.0.1:8000"))) is None


@pytest.mark.slow
def test_a_reload_is_refused_with_the_reason(exported: Path) -> None:
    with make_client(exported) as client:
        assert client.post("/models/reload").status_code == 200
        document = problem(
            client.post("/models/reload", headers={"X-Real-IP": "127.0.0.1"}), 403, "not-local"
        )
        assert "'x-real-ip'" in document["detail"]
        assert "TESSERA_RELOAD_KEY" in document["detail"]

        # uvicorn may take the peer from a header (FORWARDED_ALLOW_IPS): that makes no client local.
        behind = ProxyHeadersMiddleware(client.app, trusted_hosts="*")  # type: ignore[arg-type]  # its own types
        stranger = TestClient(behind, base_url="http://localhost:8000", client=("192.0.2.7", 1))  # type: ignore[arg-type]  # as above
        assert stranger.post("/models/reload", headers={"X-Forwarded-For": "127.0.0.1"}).status_code == 403


def test_with_the_reload_key_a_reload_may_come_through_a_proxy(exported: Path) -> None:
    with make_client(exported, host="192.0.2.7", reload_key="own") as client:
        headers = {"X-Forwarded-For": "192.0.2.8", "Host": "models.example", "Authorization": "Bearer own"}
        assert client.post("/models/reload", headers=headers).status_code == 200
