"""*Sample*, as a person uses it."""

from urllib.parse import urlencode

import pytest
from playwright.sync_api import expect

from tests.browser.opened import Opened, ink, pixels, sources, wait

LONG = "#sample?model=ncp-mnist&method=mala&steps=2000&n=256&film=0&seed=1"


def test_a_link_gives_the_same_pictures(page: Opened) -> None:
    link = "#sample?seed=5&label=7&n=4"
    found = []
    for _ in range(2):
        page.go(link)
        page.drawn()
        found.append(sources(page.page.locator(".sample img")))
    assert len(set(found[0])) == 4
    assert found[0] == found[1]
    assert page.page.get_by_label("Seed").input_value() == "5"
    page.drawn(lambda: page.page.get_by_role("button", name="New seed").click())
    assert not set(sources(page.page.locator(".sample img"))) & set(found[0])
    assert page.state()["seed"] == page.page.get_by_label("Seed").input_value() != "5"


def test_controls_have_the_bounds_of_the_manifest_and_draw_at_once(wide: Opened) -> None:
    wide.go("#sample?seed=5&n=4")
    wide.drawn()
    before = sources(wide.page.locator(".sample img"))
    temperature = wide.page.get_by_label("Temperature", exact=True)
    assert (temperature.get_attribute("min"), temperature.get_attribute("max")) == ("0", "2")
    wide.page.get_by_label("Temperature, slider").focus()
    wide.drawn(lambda: wide.keys("Home"))
    assert temperature.input_value() == "0"
    assert sources(wide.page.locator(".sample img")) != before
    assert wide.state()["temperature"] == "0"
    # A value out of bounds is refused beside its control, and nothing is asked for.
    temperature.fill("3")
    wide.page.get_by_role("button", name="Draw", exact=True).click()
    assert temperature.evaluate("input => input.validationMessage") != ""
    expect(temperature).to_be_focused()


def test_a_sample_goes_to_try(page: Opened) -> None:
    page.go("#sample?seed=5&label=1&n=4")
    page.drawn()
    second = page.page.locator(".sample").nth(1)
    second.focus()
    page.drawn(lambda: page.keys("Enter"))
    assert page.page.evaluate("location.hash").startswith("#try?")
    assert ink(page.step("Picture")) > 5
    expect(page.page.locator("nav a[aria-current]")).to_have_text("Try")


def test_a_chain_is_a_film(page: Opened) -> None:
    page.go("#sample?model=ncp-mnist&method=langevin&seed=3&n=4&steps=100")
    page.drawn()
    scrubber = page.page.get_by_label("State of the chains")
    last = sources(page.page.locator(".sample img"))
    scrubber.focus()
    page.keys("Home")
    assert page.page.locator(".film output").inner_text() == "step 2"
    first = sources(page.page.locator(".sample img"))
    assert not set(first) & set(last)
    page.page.get_by_role("button", name="Play").click()
    wait(lambda: sources(page.page.locator(".sample img")) == last, "the end of the film")
    expect(page.page.get_by_role("button", name="Play")).to_be_visible()


def test_two_pictures_are_interpolated(page: Opened) -> None:
    page.go("#sample?model=vae-mnist&method=interpolate&from=1&to=0&n=5")
    page.drawn()
    strip = sources(page.page.locator(".sample img"))
    assert len(set(strip)) == 5
    # No noise is drawn, so there is no seed to choose.
    expect(page.page.get_by_label("Seed")).to_have_count(0)
    ends = page.page.locator(".ends canvas")
    assert pixels(ends.first) != pixels(ends.last)
    page.drawn(lambda: page.page.get_by_label("To", exact=True).select_option("8"))
    after = sources(page.page.locator(".sample img"))
    assert after[0] == strip[0]
    assert after[-1] != strip[-1]


def test_the_picture_of_try_is_an_end(wide: Opened) -> None:
    wide.go("#try?model=vae-mnist&example=4")
    wide.drawn()
    wide.state()
    wide.page.get_by_role("link", name="Sample").click()
    wide.page.get_by_label("Method").select_option("interpolate")
    first = wide.page.get_by_label("From", exact=True)
    wide.drawn(lambda: first.select_option("the picture in Try"))
    four = wide.page.locator(".ends canvas").first
    found, strip = pixels(four), sources(wide.page.locator(".sample img"))
    link = wide.state()
    wide.drawn(lambda: first.select_option("4"))
    assert pixels(four) == found
    # The link has the picture.
    wide.go(f"#sample?{urlencode(link)}")
    wide.drawn()
    assert sources(wide.page.locator(".sample img")) == strip


def test_an_address_that_is_out_of_bounds_is_said(wide: Opened) -> None:
    wide.go("#sample?n=1000")
    expect(wide.page.get_by_role("alert")).to_contain_text("out of bounds")
    assert wide.page.get_by_label("Pictures").evaluate("input => input.validity.rangeOverflow")


@pytest.mark.parametrize("by", ["mouse", "keyboard"])
def test_a_long_call_shows_that_it_works_and_is_cancelled(wide: Opened, by: str) -> None:
    aborted = 'status="499"'

    def cancelled() -> int:
        text = wide.page.request.get(f"{wide.url}/metrics").text()
        lines = [line for line in text.splitlines() if "/sample" in line and aborted in line]
        return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines if "requests_total" in line)

    before = cancelled()
    # Before it is sent, there is nothing for the service to stop.
    with wide.page.expect_request(lambda request: "/sample" in request.url):
        wide.go(LONG)
    cancel = wide.page.get_by_role("button", name="Cancel")
    expect(wide.page.get_by_role("progressbar", name="Drawing")).to_be_visible()
    if by == "mouse":
        cancel.click()
    else:
        cancel.focus()
        wide.keys("Enter")
    expect(wide.sees("Cancelled.")).to_be_visible()
    # The service has stopped too.
    wait(lambda: cancelled() > before, "the service goes on")
