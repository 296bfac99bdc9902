"""The page in a window: what a person does with it, and what is drawn."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import parse_qs

from playwright.sync_api import Browser, Locator, Page

# In pixels: a phone's and a desktop's.
WIDTHS = (400, 1600)
# Seconds, on a machine with other work.
PATIENCE = 60.0
Pixels = list[int]
# As the page gets it: Chromium warns of a canvas that is read often and was not made for it.
IMAGE_DATA = "c.getContext('2d', { willReadFrequently: true }).getImageData(0, 0, c.width, c.height)"


def wait(condition: Callable[[], bool], what: str) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"timed out: {what}"
        time.sleep(0.02)


class Opened:
    """A page of the service in a window."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url

    def go(self, where: str = "") -> None:
        """Open an address, and wait for what it draws."""
        # Another document: a change after the # alone would keep this one.
        self.page.goto("about:blank")
        self.page.goto(f"{self.url}/{where}")
        self.page.locator("main h2").wait_for()

    def drawn(self, act: Callable[[], Any] | None = None) -> None:
        """Do something, and wait until the page has drawn what comes of it."""
        marks = "performance.getEntriesByName('tessera-drawn').length"
        before = self.page.evaluate(marks) if act else 0
        if act:
            act()
        wait(lambda: bool(self.page.evaluate(marks) > before), "nothing was drawn")
        # What follows at once, such as the second of two cells, is drawn too.
        self.page.locator("main:not([aria-busy])").wait_for()

    def step(self, title: str) -> Locator:
        """The canvas below a heading in *Try*."""
        return self.page.locator(f".step:has(h3:text-is('{title}')) canvas")

    def fits(self) -> bool:
        """Whether the page scrolls up and down alone."""
        return bool(self.page.evaluate("document.documentElement.scrollWidth <= innerWidth"))

    def sees(self, text: str) -> Locator:
        return self.page.get_by_text(text, exact=True)

    def state(self) -> dict[str, str]:
        """What the address holds, once it holds what was done last."""
        # Longer than the pause between two changes of it, by the page's own clock: a busy machine is late.
        pause = "new Promise(resolve => setTimeout(() => resolve(location.hash), 350))"
        _, _, query = self.page.evaluate(pause).partition("?")
        return {name: values[0] for name, values in parse_qs(query).items()}

    def drag(self, canvas: Locator, *places: tuple[float, float]) -> None:
        """Drag over a canvas, from place to place in fractions of it."""
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        assert box is not None
        points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in places]
        self.page.mouse.move(*points[0])
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*point, steps=4)
        self.page.mouse.up()

    def press(self, canvas: Locator, x: float, y: float) -> None:
        """Click a place of a canvas, in fractions of it."""
        self.drag(canvas, (x, y))

    def keys(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)


def pixels(canvas: Locator) -> Pixels:
    """The red, green, blue and alpha of each pixel of a canvas."""
    read = f"c => [...{IMAGE_DATA}.data]"
    return cast("Pixels", canvas.evaluate(read))


def ink(canvas: Locator) -> float:
    """The mean of a canvas's red, from 0 to 255."""
    reds = pixels(canvas)[::4]
    return sum(reds) / len(reds)


def colours(canvas: Locator) -> int:
    """How many colours a canvas has."""
    read = f"c => new Set(new Uint32Array({IMAGE_DATA}.data.buffer)).size"
    return cast("int", canvas.evaluate(read))


def sources(images: Locator) -> list[str]:
    """The addresses of some images, which hold their pixels."""
    return cast("list[str]", images.evaluate_all("all => all.map(image => image.src)"))


@contextmanager
def opening(
    browser: Browser, url: str, width: int, fails: tuple[int, ...] = (), **options: Any
) -> Iterator[Opened]:
    """A window of a width. At its end nothing was wrong: no error, no request to another host.

    ``fails`` are the statuses of responses that the test asks for; Chromium writes each to the console.
    """
    context = browser.new_context(viewport={"width": width, "height": 900}, **options)
    context.set_default_timeout(1000 * PATIENCE)
    page = context.new_page()
    wrong: list[str] = []
    expected = [f"status of {status}" for status in fails]

    def console(text: str) -> None:
        if not any(each in text for each in expected):
            wrong.append(text)

    def foreign(address: str) -> None:
        if not address.startswith(hosts):
            wrong.append(address)

    page.on("console", lambda message: console(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    hosts = (url.rstrip("/"), "data:", "blob:", "about:")
    page.on("request", lambda request: foreign(request.url))
    opened = Opened(page, url)
    yield opened
    assert opened.fits(), "the page scrolls sideways"
    assert context.cookies() == []
    context.close()
    assert wrong == [], wrong
