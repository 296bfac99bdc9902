"""The picture of the page in docs/page.md. Renew it with ``make screenshot``."""

import io
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from tests.browser.conftest import CHROMIUM, FLAGS
from tests.browser.opened import opening
from tests.fixtures.processes import ROOT, serving

PICTURE = ROOT / "docs" / "page.webp"
WIDTH = 1280
# In pixels; what is below is not in the picture.
HEIGHT = 1080


def taken(browser: Browser, url: str) -> Image.Image:
    """*Try* with a cell of the codes that is looked at."""
    with opening(browser, url, WIDTH, color_scheme="light") as opened:
        opened.page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
        opened.go("#try?example=3&model=vqvae-mnist")
        opened.drawn()
        opened.page.locator(".picker canvas").wait_for()
        opened.press(opened.step("Codes"), 0.5, 0.5)
        opened.page.locator("main:not([aria-busy])").wait_for()
        opened.page.mouse.move(0, 0)
        return Image.open(io.BytesIO(opened.page.screenshot())).convert("RGB")


def main(target: Path = PICTURE) -> None:
    """Take the picture, and write it."""
    with (
        serving(ROOT / "exported", *FLAGS) as url,
        sync_playwright() as driver,
        driver.chromium.launch(executable_path=CHROMIUM) as browser,
    ):
        taken(browser, url).save(target, quality=82, method=6)


if __name__ == "__main__":
    main()
