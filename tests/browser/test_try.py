"""*Try* and its editor, as a person uses them."""

import math
import re
from functools import partial
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.browser.opened import Opened, colours, ink, pixels, wait
from tests.fixtures.processes import ROOT

SEVEN = ROOT / "tests" / "fixtures" / "seven.png"
# What the browser makes of a picture that is dropped, or pasted.
GIVE = """([kind, bytes]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], "seven.png", { type: "image/png" }));
  const event = kind === "drop" ? new DragEvent(kind, { dataTransfer: data, cancelable: true })
    : new ClipboardEvent(kind, { clipboardData: data, cancelable: true });
  document.dispatchEvent(event);
}"""


def shown_psnr(page: Opened) -> float:
    found = re.search(r"PSNR([\d.]+) dB", page.page.locator("main").inner_text().replace("\n", ""))
    assert found is not None
    return float(found[1])


def test_an_example_is_shown_with_its_codes_its_reconstruction_and_what_was_lost(page: Opened) -> None:
    page.go()
    page.drawn()
    picture, decoded = (pixels(page.step(title))[::4] for title in ("Picture", "Reconstruction"))
    assert len(picture) == len(decoded) == 28 * 28
    assert max(picture) > 200
    assert picture != decoded
    error = sum((one - other) ** 2 for one, other in zip(picture, decoded, strict=True)) / len(picture)
    assert shown_psnr(page) == pytest.approx(10 * math.log10(255**2 / error), abs=0.06)
    # The colours of many codes; most of the difference is its grey.
    assert colours(page.step("Codes")) > 20
    lost = pixels(page.step("Difference"))[::4]
    assert 100 < sorted(lost)[len(lost) // 2] < 156
    expect(page.sees("56 B")).to_be_visible()
    page.drawn(lambda: page.page.get_by_role("img", name="Example: 1").click())
    assert pixels(page.step("Picture"))[::4] != picture
    assert page.state()["example"] == "1"


def test_a_drawing_is_encoded_while_it_is_drawn_and_is_in_the_address(page: Opened) -> None:
    page.go()
    page.drawn()
    page.drawn(lambda: page.page.get_by_role("button", name="Clear").click())
    assert ink(page.step("Picture")) == 0
    page.drawn(lambda: page.drag(page.step("Picture"), (0.3, 0.3), (0.7, 0.3), (0.4, 0.8)))
    assert ink(page.step("Picture")) > 10
    # The reconstruction follows what was drawn.
    assert abs(ink(page.step("Reconstruction")) - ink(page.step("Picture"))) < 5
    drawn = pixels(page.step("Picture"))
    with page.page.expect_download() as saved:
        page.page.get_by_role("button", name="Save").click()
    page.go(f"#try?picture={page.state()['picture']}")
    page.drawn()
    assert pixels(page.step("Picture")) == drawn
    reds = list(Image.open(saved.value.path()).convert("L").tobytes())
    assert reds == drawn[::4]


def test_the_pen_is_moved_by_keys(page: Opened) -> None:
    page.go()
    page.drawn()
    page.drawn(lambda: page.page.get_by_role("button", name="Clear").click())
    page.step("Picture").focus()
    page.drawn(lambda: page.keys("Shift+ArrowUp", " ", *["ArrowDown"] * 8, " ", "Shift+ArrowLeft"))
    reds = pixels(page.step("Picture"))[::4]
    lit = {at % 28 for at, red in enumerate(reds) if red > 200}
    assert lit <= {13, 14, 15}
    assert sum(red > 200 for red in reds) > 8


def test_a_picture_is_chosen_dropped_and_pasted(wide: Opened) -> None:
    wide.go()
    wide.drawn()
    first = pixels(wide.step("Picture"))
    wide.drawn(lambda: wide.page.locator("input[type=file]").set_input_files(SEVEN))
    chosen = pixels(wide.step("Picture"))
    assert chosen != first
    for event in ("drop", "paste"):
        wide.drawn(lambda: wide.page.get_by_role("img", name="Example: 0").click())
        wide.drawn(partial(wide.page.evaluate, GIVE, [event, list(SEVEN.read_bytes())]))
        assert pixels(wide.step("Picture")) == chosen


def test_what_is_no_picture_is_said_beside_it(wide: Opened, tmp_path: Path) -> None:
    wide.go()
    wide.drawn()
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    wide.page.locator("input[type=file]").set_input_files(broken)
    expect(wide.page.get_by_role("alert")).to_have_text("This is no picture that the browser can read.")


def test_a_cell_shows_its_code_and_gets_another(page: Opened) -> None:
    page.go("#try?example=3")
    page.drawn()
    before = pixels(page.step("Reconstruction"))
    page.page.locator(".picker canvas").wait_for()
    page.press(page.step("Codes"), 0.5, 0.5)
    expect(page.sees("row 4, column 4")).to_be_visible()
    outline = page.page.locator(".outline").first
    expect(outline).to_be_visible()
    page.drawn(lambda: page.press(page.page.locator(".picker canvas"), 0.6, 0.02))
    expect(page.sees("1 cell changed")).to_be_visible()
    assert pixels(page.step("Reconstruction")) != before
    edit = page.state()["edit"]
    assert edit.startswith("24:")
    edited = pixels(page.step("Reconstruction"))
    page.drawn(lambda: page.page.get_by_role("button", name="Undo").click())
    assert pixels(page.step("Reconstruction")) == before
    # The link has the edited picture.
    page.go(f"#try?example=3&edit={edit}")
    wait(lambda: pixels(page.step("Reconstruction")) == edited, "the edits of the address")


def test_a_cell_is_changed_by_keys(page: Opened) -> None:
    page.go("#try?example=3")
    page.drawn()
    before = pixels(page.step("Reconstruction"))
    page.page.locator(".picker canvas").wait_for()
    page.step("Codes").focus()
    page.keys("ArrowRight", "ArrowDown", "Enter")
    expect(page.page.locator(".picker canvas")).to_be_focused()
    page.keys("ArrowDown", "ArrowDown")
    page.drawn(lambda: page.keys("Enter"))
    assert page.state()["edit"].startswith("8:")
    assert pixels(page.step("Reconstruction")) != before
    announced = page.page.locator("#announcements")
    expect(announced).to_contain_text("code")


def test_a_code_is_painted_over_cells(page: Opened) -> None:
    page.go("#try?example=3")
    page.drawn()
    page.page.locator(".picker canvas").wait_for()
    page.page.get_by_label("Paint", exact=True).check()
    page.press(page.page.locator(".picker canvas"), 0.5, 0.02)
    page.drawn(lambda: page.drag(page.step("Codes"), (0.07, 0.07), (0.93, 0.07)))
    wait(lambda: page.state()["edit"].count(":") == 7, "the upper row")
    codes = [each.split(":")[1] for each in page.state()["edit"].split(",")]
    assert len(set(codes)) == 1
    page.step("Codes").focus()
    page.drawn(lambda: page.keys("Home", "ArrowDown", "Shift+ArrowRight", "Shift+ArrowRight"))
    wait(lambda: page.state()["edit"].count(":") == 10, "three cells more")


def test_numbers_are_changed_by_sliders(page: Opened) -> None:
    page.go("#try?model=vae-mnist")
    page.drawn()
    before = pixels(page.step("Reconstruction"))
    slider = page.page.locator(".sliders input").first
    slider.wait_for()
    slider.focus()
    page.drawn(lambda: page.keys("End"))
    assert pixels(page.step("Reconstruction")) != before
    expect(page.sees("1 number changed")).to_be_visible()
    page.page.get_by_role("button", name="Show all 32").click()
    expect(page.page.locator(".sliders input")).to_have_count(32)
