"""Ten thousand pictures on the sheet."""

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.api.serving import ServedGateway, settings_for
from tests.browser.client import made, newest, submitted
from tests.browser.conftest import WAIT_MS, Opener

COUNT = 10_000
FLOOD = 150
COPIES = """
WITH RECURSIVE numbers (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < ?)
INSERT INTO jobs ({columns})
SELECT {values} FROM jobs, numbers WHERE jobs.seq = (SELECT min(seq) FROM jobs)
"""


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[ServedGateway]:
    """Its jobs are written behind its back, while it is down."""
    settings = settings_for(tmp_path / "data", jobs={"result_ttl": 86_400})
    with ServedGateway(settings) as first:
        made(first, size="64x64")
    copy_jobs(tmp_path / "data", COUNT)
    with ServedGateway(settings) as gateway:
        yield gateway


def copy_jobs(folder: Path, count: int) -> None:
    """Make so many copies of the first job, each with an id and a moment of its own."""
    with closing(sqlite3.connect(folder / "safelight.db")) as connection, connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(jobs)") if row[1] != "seq"]
        values = {
            "id": "printf('%08x-0000-4000-8000-000000000000', number)",
            "created_at": "created_at - number * 1000000",
        }
        named = ", ".join(columns)
        connection.execute(
            COPIES.format(columns=named, values=", ".join(values.get(name, name) for name in columns)), (count,)
        )


def test_stays_small_and_quick(opened: Opener) -> None:
    page = opened()
    expect(page.locator(".frame").first).to_be_visible()
    reached = page.evaluate(
        """async () => {
            const longest = { frames: 0, gap: 0 };
            let before = performance.now();
            const watch = () => {
                const now = performance.now();
                longest.gap = Math.max(longest.gap, now - before);
                before = now;
                longest.frames = Math.max(longest.frames, document.querySelectorAll(".frame").length);
                if (!watch.done) requestAnimationFrame(watch);
            };
            requestAnimationFrame(watch);
            while (Number(document.querySelector(".frame:last-child").ariaSetSize) < 10001) {
                window.scrollTo(0, document.documentElement.scrollHeight);
                await new Promise((resolve) => requestAnimationFrame(resolve));
            }
            watch.done = true;
            return longest;
        }"""
    )
    assert reached["frames"] < 200
    assert reached["gap"] < 1000

    page.locator(".frame-link").first.focus()
    page.keyboard.press("End")
    expect(page.locator(".frame-link:focus")).to_have_count(1)
    assert page.locator(".frame:has(.frame-link:focus)").get_attribute("aria-posinset") == str(COUNT + 1)


def test_a_flood_of_jobs_is_looked_at_from_time_to_time(browser: Browser, tmp_path: Path) -> None:
    with ServedGateway(settings_for(tmp_path / "flood")) as gateway:
        page = browser.new_page()
        streams: list[str] = []
        page.on("request", lambda request: streams.append(request.url) if "/events" in request.url else None)
        page.goto(f"{gateway.url}/")
        expect(page.get_by_text("Nothing on the sheet yet")).to_be_visible()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: submitted(gateway, model="builtin/fail-rejected"), range(FLOOD)))

        last = newest(gateway)["id"]
        expect(page.locator(f"a[href='#/jobs/{last}/0']")).to_be_visible(timeout=WAIT_MS)
        page.evaluate("window.scrollTo(0, document.documentElement.scrollHeight)")
        expect(page.locator(".frame").first).to_have_attribute("aria-setsize", str(FLOOD), timeout=WAIT_MS)
        assert len(streams) <= 2
        page.close()
