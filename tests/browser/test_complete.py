"""*Complete*, as a person uses it."""

from urllib.parse import urlencode

import pytest
from playwright.sync_api import expect

from tests.browser.opened import Opened, colours, sources


def test_an_erased_half_is_filled_in_several_ways(page: Opened) -> None:
    page.go("#complete?seed=1&n=4&example=3")
    page.drawn()
    found = sources(page.page.locator(".sample img"))
    assert len(set(found)) > 1
    assert page.state()["mask"] == 28 * "0" + 21 * "1"
    page.go("#complete?seed=1&n=4&example=3")
    page.drawn()
    assert sources(page.page.locator(".sample img")) == found


def test_a_drawing_is_completed_and_is_in_the_link(wide: Opened) -> None:
    wide.go()
    wide.drawn()
    wide.drawn(lambda: wide.drag(wide.step("Picture"), (0.2, 0.2), (0.8, 0.2)))
    wide.state()
    wide.drawn(lambda: wide.page.get_by_role("link", name="Complete").click())
    found = sources(wide.page.locator(".sample img"))
    link = wide.state()
    assert "example" not in link
    wide.go(f"#complete?{urlencode(link)}")
    wide.drawn()
    assert sources(wide.page.locator(".sample img")) == found


@pytest.mark.parametrize("mode", ["Freehand", "Box"])
def test_a_region_is_erased_by_dragging(page: Opened, mode: str) -> None:
    page.go("#complete?seed=1&n=2&example=3")
    page.drawn()
    page.page.get_by_role("button", name="Erase none").click()
    expect(page.page.get_by_role("alert")).to_contain_text("Nothing is erased")
    page.page.get_by_label(mode).check()
    eraser = page.page.locator(".erase canvas")
    kept = colours(eraser)
    # From the middle of the second cell of the second row to that of the fourth cell of the third row.
    places = [((column + 0.5) / 7, (row + 0.5) / 7) for column, row in ((1, 1), (3, 2))]
    page.drawn(lambda: page.drag(eraser, *places))
    mask = page.state()["mask"]
    erased = {(cell // 7, cell % 7) for cell, value in enumerate(mask) if value == "1"}
    box = {(row, column) for row in (1, 2) for column in (1, 2, 3)}
    if mode == "Box":
        assert erased == box
    else:
        assert {(1, 1), (2, 3)} < erased < box
    assert colours(eraser) != kept


def test_a_region_is_erased_by_keys(page: Opened) -> None:
    page.go("#complete?seed=1&n=2&example=3")
    page.drawn()
    page.page.get_by_role("button", name="Erase none").focus()
    page.keys("Enter")
    page.page.locator(".erase canvas").focus()
    page.drawn(lambda: page.keys("Home", "ArrowRight", " "))
    expect(page.page.locator("#announcements")).to_have_text("row 1, column 2: erased")
    assert page.state()["mask"] == "01" + 47 * "0"
    page.page.keyboard.down("Shift")
    page.keys("ArrowDown")
    page.drawn(lambda: page.page.keyboard.up("Shift"))
    assert page.state()["mask"] == "01" + 6 * "0" + "1" + 40 * "0"


def test_a_model_that_cannot_says_which_can(page: Opened) -> None:
    page.go("#complete?model=vae-mnist")
    page.drawn(lambda: page.page.get_by_role("link", name="vqvae-mnist").click())
    expect(page.page.get_by_label("Model")).to_have_value("vqvae-mnist")
