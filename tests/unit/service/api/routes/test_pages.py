import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.unit.service.conftest import make_client, problem

PACKED = {"Accept-Encoding": "gzip, br"}
BARE = {"Accept-Encoding": "identity"}


@pytest.fixture(scope="module")
def main(client: TestClient) -> str:
    """The path of the first module."""
    found = re.search(r'src="(page/\w+/main\.js)"', client.get("/").text)
    assert found is not None
    return f"/{found[1]}"


def test_the_page_may_run_only_its_own_scripts_and_call_only_its_service(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(each.strip().split(" ", 1) for each in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "set-cookie" not in page.headers
    head = client.head("/", headers=BARE)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(page.content))


def test_the_page_is_checked_for_changes_and_its_files_are_kept(client: TestClient, main: str) -> None:
    assert client.get("/").headers["cache-control"] == "no-cache"
    assert "immutable" in client.get(main).headers["cache-control"]


@pytest.mark.parametrize("encoding", [PACKED, BARE])
def test_what_the_browser_has_is_not_sent_again(
    client: TestClient, main: str, encoding: dict[str, str]
) -> None:
    for path in ("/", main):
        etag = client.get(path, headers=encoding).headers["etag"]
        for known in (etag, f'"other", W/{etag}', "*"):
            again = client.get(path, headers={**encoding, "If-None-Match": known})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        assert client.get(path, headers={**encoding, "If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    ("accepted", "is_packed"),
    [("gzip", True), ("br, gzip;q=0.5", True), ("*", True), ("gzip;q=0", False), ("br", False), ("", False)],
)
def test_gzip_is_sent_to_those_who_take_it(
    client: TestClient, main: str, accepted: str, is_packed: bool
) -> None:
    packed = client.get(main, headers={"Accept-Encoding": accepted})
    assert packed.headers.get("content-encoding") == ("gzip" if is_packed else None)
    assert packed.headers["vary"] == "Accept-Encoding"
    bare = client.get(main, headers=BARE)
    assert packed.content == bare.content
    assert (packed.headers["etag"] == bare.headers["etag"]) != is_packed
    assert (int(packed.headers["content-length"]) < len(bare.content)) == is_packed


def test_a_picture_is_sent_as_it_is(client: TestClient, main: str) -> None:
    picture = client.get(main.replace("main.js", "examples/digit-7.png"), headers=PACKED)
    assert picture.headers["content-type"] == "image/png"
    assert "content-encoding" not in picture.headers


@pytest.mark.parametrize("path", ["main.py", "files.py", "%2e%2e/files.py", "index.html", ""])
def test_there_is_nothing_but_the_files_of_the_page(client: TestClient, main: str, path: str) -> None:
    problem(client.get(main.replace("main.js", path)), 404, "about:blank")
    problem(client.get("/page/000000000000/main.js"), 404, "about:blank")


def test_the_page_needs_no_key_and_shows_nothing_of_the_models(exported: Path) -> None:
    with make_client(exported, api_keys="own") as client:
        page = client.get("/")
        sources = re.findall(r'<(?:link|script)[^>]* (?:src|href)="([^"]+)"', page.text)
        assert {client.get(f"/{source}").status_code for source in sources} == {200}
        assert "levels" not in page.text
        assert client.get("/models").status_code == 401
