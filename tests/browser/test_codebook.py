"""*Codebook* and *Models*, as a person uses them."""

import ast
import json
import shlex
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import expect

from tests.browser.opened import Opened, colours, sources
from tests.fixtures.processes import ROOT


def test_all_codes_are_little_pictures_in_several_orders(page: Opened) -> None:
    page.go("#codebook")
    shelf = page.page.locator(".picker canvas")
    shelf.wait_for()
    assert colours(shelf) > 50
    page.press(shelf, 0.5, 0.02)
    code = page.state()["code"]
    expect(page.sees(f"{code} of 512")).to_be_visible()
    page.page.get_by_role("button", name="Encode the examples").click()
    used = page.page.get_by_text("codes were used by the pictures of this visit")
    expect(used).not_to_contain_text("0 of 512 codes")
    page.page.get_by_label("Order").select_option("use")
    shelf.focus()
    page.keys("Home", "Enter")
    # The code in front is one that was used.
    expect(page.page.locator(".figures").first).not_to_contain_text("0 times")


def test_the_map_is_walked_by_keys(page: Opened) -> None:
    page.go("#codebook?order=map")
    plane = page.page.get_by_role("application", name="The codes on a plane")
    plane.wait_for()
    assert colours(plane) > 50
    page.press(plane, 0.5, 0.5)
    first = page.state()["code"]
    plane.focus()
    page.keys("ArrowLeft", "ArrowLeft", "Enter")
    second = page.state()["code"]
    assert second != first
    page.keys("ArrowRight", "ArrowRight")
    expect(page.page.locator("#announcements")).to_contain_text("of 512")


def test_each_model_has_a_card_and_leads_to_what_it_can(page: Opened) -> None:
    page.go("#models")
    cards = page.page.locator("article")
    models = len(list((ROOT / "exported").glob("*/manifest.json")))
    expect(cards).to_have_count(models)
    expect(page.page.get_by_role("img", name="Preview of")).to_have_count(models)
    card = page.page.get_by_role("article", name="ncp-mnist")
    expect(card).to_contain_text("sample/langevin")
    expect(card.get_by_role("button")).to_have_text(["Try it", "Sample"])
    page.drawn(lambda: card.get_by_role("button", name="Sample").click())
    expect(page.page.get_by_label("Model")).to_have_value("ncp-mnist")


def test_the_commands_do_what_the_page_did(wide: Opened, tmp_path: Path) -> None:
    wide.go("#sample?seed=5&n=2&label=3")
    wide.drawn()
    drawn = sources(wide.page.locator(".sample img"))
    wide.page.get_by_text("The same with curl and Python").click()
    wide.page.locator("pre").first.wait_for()
    curl, python = wide.page.locator("pre").all_inner_texts()[:2]
    words = shlex.split(curl.replace("\\\n", " "))
    assert words[:3] == ["curl", "-X", "POST"]
    assert words[3].startswith(f"{wide.url}/sample?model=vqvae-mnist&version=")
    sent = json.loads(words[words.index("-d") + 1])
    assert sent["seed"] == 5
    # What Python gets is what the page has shown.
    run = [sys.executable, "-c", python]
    said = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert [f"data:image/png;base64,{each}" for each in ast.literal_eval(said)["images"]] == drawn
