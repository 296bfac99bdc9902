"""The page as a whole: keys, no model, a path, themes, and who cannot see it or use a mouse."""

from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, expect

from tests.browser.conftest import FLAGS, required
from tests.browser.opened import WIDTHS, Opened, opening
from tests.browser.screenshot import PICTURE, taken
from tests.fixtures.path_proxy import publishing
from tests.fixtures.processes import ROOT, serving

AXE = ROOT / "build" / "page" / "node_modules" / "axe-core" / "axe.min.js"
SECTIONS = (
    "#try",
    "#try?model=vae-mnist",
    "#sample?n=4",
    "#sample?model=ncp-mnist&method=langevin&n=4",
    "#sample?model=vae-mnist&method=interpolate",
    "#complete?n=2",
    "#complete?model=vae-mnist",
    "#codebook",
    "#codebook?order=map",
    "#models",
)


@pytest.mark.parametrize(("width", "scheme"), [*zip(WIDTHS, ("dark", "light"), strict=True)])
def test_each_section_fits_and_is_accessible(
    chromium: Browser, service: str, width: int, scheme: str
) -> None:
    if not AXE.exists():
        required("axe-core is not installed: make build/page/.installed")
    with opening(chromium, service, width, color_scheme=scheme) as opened:
        opened.go()
        opened.page.evaluate(AXE.read_text(encoding="utf-8"))
        for section in SECTIONS:
            opened.page.evaluate("hash => { location.hash = hash; }", section)
            opened.page.locator("main h2").wait_for()
            opened.page.locator("main:not([aria-busy])").wait_for()
            found = opened.page.evaluate("axe.run()")
            assert len(found["passes"]) > 10
            bad = [(each["id"], [node["html"] for node in each["nodes"]]) for each in found["violations"]]
            assert bad == [], section
            assert opened.fits(), section


def test_the_documents_show_this_page(chromium: Browser, service: str) -> None:
    assert f"]({PICTURE.name})" in (PICTURE.parent / "page.md").read_text(encoding="utf-8")
    assert PICTURE.stat().st_size < 150_000
    # Small, so that another font of another machine makes no difference.
    shown, found = (
        list(image.convert("L").resize((32, 27)).tobytes())
        for image in (Image.open(PICTURE), taken(chromium, service))
    )
    apart = sum(abs(one - other) for one, other in zip(shown, found, strict=True)) / len(found)
    assert apart < 8, "the page looks different now: make screenshot"


def test_every_control_is_reached_by_tab_and_shows_it(page: Opened) -> None:
    page.go("#sample?n=2")
    page.drawn()
    seen: list[str] = []
    look = """() => {
      const { activeElement: element } = document;
      if (element === document.body) return "";
      const { outlineStyle, outlineWidth } = getComputedStyle(element);
      return [element.outerHTML.slice(0, 60), outlineStyle !== "none" && parseFloat(outlineWidth) >= 2];
    }"""
    while True:
        page.keys("Tab")
        found = page.page.evaluate(look)
        if not found or found[0] in seen[:1]:
            break
        assert found[1], f"{found[0]} does not show that it has the focus"
        seen.append(found[0])
    assert "skip" in seen[0]
    assert len(seen) == page.page.locator(":is(a[href], button, select, input, summary):visible").count()


def test_the_content_is_skipped_to(wide: Opened) -> None:
    wide.go()
    wide.keys("Tab", "Enter")
    expect(wide.page.locator("main")).to_be_focused()


def test_the_theme_follows_the_system_until_it_is_chosen(chromium: Browser, service: str) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    found = {}
    for scheme in ("light", "dark"):
        with opening(chromium, service, WIDTHS[-1], color_scheme=scheme, reduced_motion="reduce") as opened:
            opened.go()
            found[scheme] = opened.page.evaluate(ground)
            button = opened.page.get_by_role("button", name="Theme")
            button.click()
            assert button.inner_text() == "Theme: light"
            assert opened.page.evaluate(ground) == found["light"]
            button.click()
            opened.go()
            assert opened.page.evaluate(ground) != found["light"]
            motion = "getComputedStyle(document.querySelector('button')).transitionDuration"
            assert opened.page.evaluate(motion) == "0s"
    assert found["light"] != found["dark"]


def test_a_key_is_asked_for_and_kept_for_the_tab(chromium: Browser) -> None:
    flags = (*FLAGS, "--max-images=100")
    with (
        serving(ROOT / "exported", *flags, TESSERA_API_KEYS="alice:one") as url,
        opening(chromium, url, WIDTHS[0], fails=(401, 413)) as opened,
    ):
        page = opened.page
        page.goto(url)
        field = page.get_by_label("API key")
        for key in ("wrong", "one"):
            expect(field).to_be_focused()
            field.fill(key)
            opened.keys("Enter")
        opened.drawn()
        # The codebook has more codes than the service takes at once.
        page.locator(".picker canvas").wait_for()
        opened.go("#sample?n=101")
        expect(page.get_by_role("alert")).to_contain_text("max_images")
        expect(page.get_by_role("alert")).to_contain_text("100")
        assert page.evaluate("Object.keys(localStorage)") == []
        assert "one" not in page.evaluate("location.href").split("/", 3)[3]


def test_without_a_model_the_reason_is_shown(chromium: Browser, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{}")
    with (
        serving(tmp_path, "--workers=1", "--provider=cpu") as url,
        opening(chromium, url, WIDTHS[0], fails=(503,)) as opened,
    ):
        opened.go()
        expect(opened.page.get_by_role("alert")).to_contain_text("no model is loaded")
        expect(opened.page.get_by_role("alert")).to_contain_text("broken")
        opened.page.get_by_role("button", name="Try again").click()
        expect(opened.page.get_by_role("alert")).to_contain_text("no model is loaded")


def test_the_page_works_behind_a_proxy_that_removes_the_path(chromium: Browser, service: str) -> None:
    with (
        publishing(service, "/img", strips=True) as url,
        opening(chromium, url, WIDTHS[-1]) as opened,
    ):
        opened.go()
        opened.drawn()
        opened.drawn(lambda: opened.page.get_by_role("link", name="Sample").click())


def test_the_page_works_below_a_root_path_without_a_slash(chromium: Browser, below: str) -> None:
    with opening(chromium, below, WIDTHS[-1]) as opened:
        opened.page.goto(below)
        opened.drawn()
        opened.drawn(lambda: opened.page.get_by_role("link", name="Sample").click())
