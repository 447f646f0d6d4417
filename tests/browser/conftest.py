"""Chromium, driven through the console of a real gateway. `make browser` installs it."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect, sync_playwright

from tests.api.serving import ServedGateway, settings_for

WAIT_MS = 20_000
FLAGS = (
    "--no-sandbox",  # CI runs as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DESKTOP = {"width": 1280, "height": 860}
PHONE = {"width": 390, "height": 844}

expect.set_options(timeout=WAIT_MS)

Opener = Callable[..., Page]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A browser beside a gateway on a busy machine takes its time; what a test waits for has a limit of its own."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(240))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Not of the whole session: Playwright keeps an event loop running, beside which no other test could run its own."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.fail("these tests drive Chromium, which is not installed: make browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[ServedGateway]:
    """A gateway of the test's own, as `safelight serve` starts it."""
    with ServedGateway(settings_for(tmp_path / "data")) as gateway:
        yield gateway


@pytest.fixture
def opened(browser: Browser, gateway: ServedGateway) -> Iterator[Opener]:
    """Opens pages of the console; whatever the browser complains of, or asks of another host, fails the test."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def heard(message: ConsoleMessage) -> None:
        if message.type == "error" and "the server responded with a status of 4" not in message.text:
            complaints.append(message.text)

    def asked(request: Request) -> None:
        if not request.url.startswith((gateway.url, "data:", "blob:")):
            complaints.append(f"asked {request.url}")

    def open_page(path: str = "#/", *, scheme: str = "dark", viewport: Any = None, **options: Any) -> Page:
        context = browser.new_context(color_scheme=scheme, viewport=viewport or DESKTOP, **options)  # type: ignore[arg-type]  # a parametrized word
        context.set_default_timeout(WAIT_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("console", heard)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", asked)
        page.goto(f"{gateway.url}/{path}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def page(opened: Opener) -> Page:
    """The contact sheet, in the dark."""
    return opened()
