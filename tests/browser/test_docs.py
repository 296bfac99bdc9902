"""``/docs`` in Chromium: what a newcomer clicks works as it stands, also behind a proxy."""

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, Response, expect

from service.api.app import routes
from tests.fixtures.path_proxy import publishing

# Milliseconds, on a machine with other work.
PATIENCE = 60_000
# Those with a body or a value in the path, for which the page needs an example, but none that is the bytes of
# a tensor, which nobody types.
OPERATIONS = [
    (method, route.path)
    for route in routes()
    for method in sorted(route.methods or ())
    if (method == "POST" or "{" in route.path) and not route.path.startswith("/diffusers")
]


def opened(browser: BrowserContext, url: str) -> Page:
    """The page, with no error on it."""
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("requestfailed", lambda request: errors.append(request.url))
    page.goto(f"{url}/docs")
    page.locator(".opblock").first.wait_for()
    assert errors == []
    return page


def open_call(page: Page, method: str, path: str) -> Locator:
    """The block of a call, opened, after *Try it out*."""
    block = page.locator(f".opblock-{method.lower()}:has([data-path='{path}'])")
    block.locator(".opblock-summary-control").click()
    block.locator(".try-out__btn").click()
    return block


def close_call(block: Locator) -> None:
    """Leave the block as it was: the page grows slow with the calls that are open."""
    block.locator(".try-out__btn.cancel").click()
    block.locator(".opblock-summary-control").click()
    expect(block.locator(".opblock-body")).to_have_count(0, timeout=PATIENCE)


def execute(page: Page, block: Locator) -> Response:
    """The response to *Execute*, once the page shows it."""
    with page.expect_response(lambda response: response.request.resource_type == "fetch") as found:
        block.locator("button.execute").click()
    status = block.locator(".live-responses-table tr.response .response-col_status")
    expect(status).to_contain_text(str(found.value.status), timeout=PATIENCE)
    return found.value


@pytest.fixture(scope="module")
def page(browser: BrowserContext, service: str) -> Page:
    # One for all calls: to load it takes longer than to send a call.
    return opened(browser, service)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_call_works_as_it_stands(page: Page, method: str, path: str) -> None:
    block = open_call(page, method, path)
    response = execute(page, block)
    assert response.ok, f"{response.url}: {response.text()}"
    assert "additionalProp" not in f"{response.url} {response.request.post_data}"
    close_call(block)


def test_every_example_of_a_sample_works(page: Page) -> None:
    block = open_call(page, "POST", "/sample")
    choice = block.locator(".examples-select-element")
    names = choice.locator("option").all_inner_texts()
    assert {"autoregressive", "langevin", "complete codes", "complete an image", "interpolate"} <= set(names)
    for name in names:
        choice.select_option(label=name)
        response = execute(page, block)
        assert response.ok, f"{name}: {response.text()}"
        # The page shows the picture.
        expect(block.locator(".live-responses-table img")).to_be_visible(timeout=PATIENCE)
    close_call(block)


def decodes_below(browser: BrowserContext, url: str) -> None:
    page = opened(browser, url)
    response = execute(page, open_call(page, "POST", "/decode"))
    assert response.url.partition("?")[0] == f"{url}/decode"
    assert response.ok
    page.close()


def test_the_page_works_behind_a_proxy_that_removes_the_path(browser: BrowserContext, service: str) -> None:
    with publishing(service, "/img", strips=True) as url:
        decodes_below(browser, url)


def test_the_page_works_behind_a_proxy_that_leaves_the_path(browser: BrowserContext, below: str) -> None:
    decodes_below(browser, below)
