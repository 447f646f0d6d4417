"""Every page and dialog, held to the rules of WCAG 2.2 AA by axe, in both themes and on a phone."""

from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]  # the package has no types
from playwright.sync_api import Page, expect

from tests.api.serving import ServedGateway
from tests.browser.client import made, submitted
from tests.browser.conftest import DESKTOP, PHONE, Opener

RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
PAGES = ("#/", "#/studio", "#/studio?operation=image_edit", "#/queue", "#/usage", "#/keys", "#/webhooks", "#/providers")

every_look = pytest.mark.parametrize(
    ("scheme", "viewport"), [("dark", DESKTOP), ("light", DESKTOP), ("light", PHONE)], ids=["dark", "light", "phone"]
)


def faults(page: Page) -> list[str]:
    page.evaluate(
        "Promise.all(document.getAnimations().filter((each) => each.effect.getTiming().iterations !== Infinity)"
        ".map((each) => each.finished))"
    )
    found = Axe().run(page, options=RULES)
    return [
        f"{fault['id']}: {node['html'][:160]} {node.get('failureSummary', '')}"
        for fault in found.response["violations"]
        for node in fault["nodes"]
    ]


@every_look
@pytest.mark.parametrize("path", PAGES)
def test_an_empty_page(path: str, scheme: str, viewport: Any, opened: Opener) -> None:
    page = opened(path, scheme=scheme, viewport=viewport)
    settle(page)
    assert faults(page) == []


@every_look
def test_pages_with_something_on_them(scheme: str, viewport: Any, opened: Opener, gateway: ServedGateway) -> None:
    job = made(gateway)
    failed = made(gateway, model="builtin/fail-busy")
    submitted(gateway, model="builtin/slow-60")
    for path in (
        "#/",
        f"#/jobs/{job['id']}/0",
        f"#/jobs/{failed['id']}/0",
        f"#/studio?operation=image_edit&job={job['id']}&index=0",
        "#/queue",
        "#/usage",
    ):
        page = opened(path, scheme=scheme, viewport=viewport)
        settle(page)
        assert faults(page) == [], path


@pytest.mark.parametrize(
    "open_it",
    [
        lambda page: page.get_by_role("button", name="Sign in").click(),
        lambda page: page.get_by_role("button", name="Pause builtin").click(),
    ],
    ids=["sign in", "confirm"],
)
def test_a_dialog(open_it: Callable[[Page], None], opened: Opener) -> None:
    page = opened("#/queue")
    settle(page)
    open_it(page)
    expect(page.get_by_role("dialog")).to_be_visible()
    assert faults(page) == []


def settle(page: Page) -> None:
    """Wait until the page has what it asked for."""
    expect(page.locator("[aria-busy=true]")).to_have_count(0)
    page.evaluate("Promise.all([...document.images].map((image) => image.decode().catch(() => null)))")
