"""Behind a path: as a proxy that leaves the path in requests sends them, and as one that removes it."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import pytest
from fastapi.testclient import TestClient

from tests.unit.service.conftest import make_client, problem


@pytest.fixture(scope="module")
def below(exported: Path) -> Iterator[TestClient]:
    with make_client(
        exported, default_model="levels", root_path="/img", reload_key="own", metrics=9100
    ) as client:
        yield client


@pytest.mark.parametrize("prefix", ["/img", ""])
def test_calls_are_answered_with_and_without_the_path(below: TestClient, prefix: str, seven: bytes) -> None:
    assert below.post(f"{prefix}/encode", content=seven).json()["shape"] == [1, 7, 7]
    assert below.get(f"{prefix}/models/levels?x=1").json()["name"] == "levels"
    for path in ("/encode", "/models/other", "/nowhere"):
        refused = below.post(f"{prefix}{path}")
        assert refused.json()["instance"] == f"/img{path}"
    assert "did you mean '/img/encode'" in below.post(f"{prefix}/encod").json()["detail"]
    # The path that all have in common makes none of them near.
    assert below.post(f"{prefix}/nope").json()["detail"] == "there is nothing at '/img/nope'"
    assert "error" in below.get(f"{prefix}/v2/models/other").json()


@pytest.mark.parametrize("prefix", ["/img", ""])
def test_the_page_leads_to_addresses_that_are_there(below: TestClient, prefix: str) -> None:
    for start in (f"{prefix}/", f"{prefix}/docs/", prefix or "/"):
        page = below.get(start)
        assert page.url.path in ("/img/docs", f"{prefix}/docs")
        sources = re.findall(r'(?:src|href|url)(?:=|: )["\']([^"\']+)', page.text)
        assert len(sources) == 4
        for source in sources:
            assert below.get(urljoin(str(page.url), source)).status_code == 200
    (server,) = below.get(f"{prefix}/openapi.json").json()["servers"]
    assert urljoin(f"http://host{prefix}/openapi.json", server["url"]) == f"http://host{prefix}/"


@pytest.mark.parametrize("path", ["/imgs/models", "/img/img/models", "/img//models", "/IMG/models"])
def test_no_other_path_counts(below: TestClient, path: str) -> None:
    problem(below.get(path), 404, "about:blank")


@pytest.mark.parametrize("prefix", ["", "/img", "/img/img"])
def test_what_protects_a_path_protects_it_below_the_path(below: TestClient, prefix: str) -> None:
    assert below.post(f"{prefix}/models/reload").status_code == (404 if prefix == "/img/img" else 401)
    problem(below.get(f"{prefix}/metrics"), 404, "about:blank" if prefix == "/img/img" else "wrong-port")


def test_a_slash_too_many_is_no_redirect_to_an_address_that_a_proxy_may_not_have(client: TestClient) -> None:
    refused = client.post("/encode/", follow_redirects=False)
    assert "did you mean '/encode'" in problem(refused, 404, "about:blank")["detail"]
