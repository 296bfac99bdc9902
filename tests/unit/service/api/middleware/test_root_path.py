"""Below a path: requests of a proxy that leaves the path in them, and of one that removes it."""

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
def test_the_documentation_leads_to_addresses_that_are_there(below: TestClient, prefix: str) -> None:
    for start in (f"{prefix}/docs", f"{prefix}/docs/"):
        page = below.get(start)
        assert page.url.path == f"{prefix}/docs"
        sources = re.findall(r'(?:src|href|url)(?:=|: )["\']([^"\']+)', page.text)
        assert len(sources) == 4
        for source in sources:
            assert below.get(urljoin(str(page.url), source)).status_code == 200
    (server,) = below.get(f"{prefix}/openapi.json").json()["servers"]
    assert urljoin(f"http://host{prefix}/openapi.json", server["url"]) == f"http://host{prefix}/"


@pytest.mark.parametrize("start", ["/", "/img", "/img/"])
def test_the_page_leads_to_addresses_that_are_there(below: TestClient, start: str) -> None:
    page = below.get(start)
    base = re.findall(r'<base href="([^"]+)">', page.text)
    assert base == ["/img/"]
    sources = re.findall(r'<(?:link|script)[^>]* (?:src|href)="([^"]+)"', page.text)
    assert len(sources) > 4
    for source in sources:
        assert below.get(urljoin("/img/", source)).status_code == 200


@pytest.mark.parametrize("path", ["/imgs/models", "/img/img/models", "/img//models", "/IMG/models"])
def test_a_similar_path_is_not_found(below: TestClient, path: str) -> None:
    problem(below.get(path), 404, "about:blank")


@pytest.mark.parametrize("prefix", ["", "/img", "/img/img"])
def test_protected_paths_are_protected_below_the_root_path_too(below: TestClient, prefix: str) -> None:
    assert below.post(f"{prefix}/models/reload").status_code == (404 if prefix == "/img/img" else 401)
    problem(below.get(f"{prefix}/metrics"), 404, "about:blank" if prefix == "/img/img" else "wrong-port")


def test_a_trailing_slash_is_not_found_instead_of_redirected(client: TestClient) -> None:
    refused = client.post("/encode/", follow_redirects=False)
    assert "did you mean '/encode'" in problem(refused, 404, "about:blank")["detail"]
