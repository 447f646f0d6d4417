"""The pictures of the documentation, made anew with `make screenshots`; without it, looked at and thrown away."""

import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.api.serving import ServedGateway
from tests.browser.client import made, submitted
from tests.browser.conftest import PHONE, Opener
from tests.browser.test_accessibility import settle

WIDE = {"width": 1280, "height": 800}
SCENES = (
    ("a lighthouse in a storm, seen from the sea", "768x768"),
    ("red kite over dunes at dawn", "1152x768"),
    ("a quiet harbour under snow, at night", "768x1152"),
    ("a forest path in autumn fog", "1024x576"),
    ("mountain lake with a small boat, evening", "768x768"),
    ("city skyline at night with a full moon", "1024x576"),
    ("a sunflower field under a blue sky", "1152x768"),
    ("a fox in the snow", "768x1152"),
    ("a cottage on a green hill with sheep", "1152x768"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    asked = os.environ.get("SCREENSHOTS")
    return Path(asked) if asked else tmp_path


def keep(page: Page, path: Path) -> None:
    settle(page)
    page.screenshot(path=path, animations="disabled")
    with Image.open(path) as image:
        assert len(image.convert("RGB").getcolors(maxcolors=2**24) or ()) > 200  # it shows something
        image.convert("P", palette=Image.Palette.ADAPTIVE, colors=256).save(path, optimize=True)


def test_pages_for_the_documentation(opened: Opener, gateway: ServedGateway, folder: Path) -> None:
    jobs = [made(gateway, prompt, size=size, seed=place) for place, (prompt, size) in enumerate(SCENES)]
    submitted(gateway, "a waterfall in the jungle", model="builtin/handle-60", size="1152x768")
    looks: tuple[tuple[str, str, str, Any], ...] = (
        ("sheet-dark", "#/", "dark", WIDE),
        ("sheet-phone", "#/", "light", PHONE),
        ("view-light", f"#/jobs/{jobs[1]['id']}/0", "light", WIDE),
        ("queue-dark", "#/queue", "dark", WIDE),
    )
    for name, path, scheme, viewport in looks:
        keep(opened(path, scheme=scheme, viewport=viewport), folder / f"{name}.png")

    page = opened(f"#/studio?operation=image_edit&job={jobs[4]['id']}&index=0", scheme="light", viewport=WIDE)
    film = page.locator(".ruby")
    expect(film).to_be_visible()
    box = film.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.55, box["y"] + box["height"] * 0.3)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] * 0.25, steps=10)
    page.mouse.up()
    page.get_by_label("Prompt").fill("a hot air balloon")
    keep(page, folder / "edit-light.png")
