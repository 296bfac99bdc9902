"""A service behind a proxy that publishes it below a path."""

import re
from pathlib import Path
from urllib.parse import urljoin

import httpx2
import pytest

from tests.fixtures import toy_models
from tests.fixtures.path_proxy import publishing
from tests.fixtures.processes import PATIENCE, serving


@pytest.mark.parametrize("flags", [[], ["--root-path=/a/b"]], ids=["no path", "a path"])
def test_calls_and_pages_are_below_the_path(tmp_path: Path, flags: list[str]) -> None:
    toy_models.write_levels(tmp_path)
    with (
        serving(tmp_path, "--workers=1", "--provider=cpu", *flags) as service,
        httpx2.Client(trust_env=False, timeout=PATIENCE) as client,
    ):
        # A probe does not come through the proxy.
        assert client.get(f"{service}/readyz").status_code == 200
        # A service without the path is below it if the proxy removes it.
        for strips in (True, False) if flags else (True,):
            with publishing(service, "/a/b", strips=strips) as url:
                assert_below(client, url)
                refused = client.post(f"{url}/encode").json()
                assert refused["instance"] == ("/a/b/encode" if flags else "/encode")


def assert_below(client: httpx2.Client, url: str) -> None:
    assert client.get(f"{url}/models/levels").json()["name"] == "levels"
    page = client.get(f"{url}/")
    base = re.findall(r'<base href="([^"]+)">', page.text)
    sources = re.findall(r'<(?:link|script)[^>]* (?:src|href)="([^"]+)"', page.text)
    assert len(sources) > 4
    for source in sources:
        assert client.get(urljoin(urljoin(str(page.url), "".join(base)), source)).status_code == 200
    page = client.get(f"{url}/docs/", follow_redirects=True)
    assert str(page.url) == f"{url}/docs"
    sources = re.findall(r'(?:src|href|url)(?:=|: )["\']([^"\']+)', page.text)
    assert len(sources) == 4
    for source in sources:
        assert client.get(urljoin(str(page.url), source)).status_code == 200
