"""One browser and one service for all tests of this folder that a process runs."""

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, sync_playwright

from tests.browser.opened import WIDTHS, Opened, opening
from tests.fixtures.path_proxy import publishing
from tests.fixtures.processes import ROOT, serving

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ("--default-model=vqvae-mnist", "--provider=cpu", "--workers=1")


def required(reason: str) -> None:
    """Skip a test for a reason, or fail where CI must run it."""
    if os.environ.get("BROWSER_TESTS") == "required":
        pytest.fail(f"{reason}, and BROWSER_TESTS=required")
    pytest.skip(reason)


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    if CHROMIUM is None:
        required("no Chromium is installed: apt-get install chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def browser(chromium: Browser) -> BrowserContext:
    """A context whose pages share its cache."""
    return chromium.new_context(viewport={"width": 1280, "height": 900})


@pytest.fixture(scope="package")
def service() -> Iterator[str]:
    """As ``make serve`` starts it."""
    with serving(ROOT / "exported", *FLAGS) as url:
        yield url


@pytest.fixture(scope="package")
def below() -> Iterator[str]:
    """A service with a root path, behind a proxy that leaves the path."""
    with (
        serving(ROOT / "exported", *FLAGS, "--root-path=/img") as inside,
        publishing(inside, "/img", strips=False) as url,
    ):
        yield url


@pytest.fixture
def page(chromium: Browser, service: str) -> Iterator[Opened]:
    """The page, in a new window as narrow as a phone; `test_page.py` looks at each section in both widths."""
    with opening(chromium, service, WIDTHS[0]) as opened:
        yield opened


@pytest.fixture
def wide(chromium: Browser, service: str) -> Iterator[Opened]:
    """The page in a wide window."""
    with opening(chromium, service, WIDTHS[-1]) as opened:
        yield opened
