"""The console as a user meets it."""

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from PIL import Image
from playwright.sync_api import Page, expect

from tests.api.serving import ServedGateway
from tests.browser.client import ask, made, newest, submitted
from tests.browser.conftest import PHONE, Opener

FRAMES = ".frame"


def test_the_first_minute_makes_a_picture_out_of_nothing(page: Page, gateway: ServedGateway) -> None:
    expect(page.get_by_text("Nothing on the sheet yet")).to_be_visible()
    page.get_by_role("button", name="red kite over dunes at dawn").click()

    frame = page.locator(FRAMES)
    expect(frame).to_have_count(1)
    expect(frame.locator("img")).to_be_visible()
    expect(frame).to_have_attribute("data-state", "completed")
    assert newest(gateway)["meta"]["request"]["prompt"] == "red kite over dunes at dawn"


def test_a_picture_develops_before_ones_eyes(page: Page) -> None:
    page.get_by_label("Describe a picture").fill("a lighthouse in a storm")
    page.get_by_role("combobox", name="Model", exact=True).first.select_option("builtin/handle-5")
    page.get_by_role("button", name="Develop").click()

    frame = page.locator(FRAMES)
    expect(frame).to_have_attribute("data-state", "processing")
    expect(frame.locator(".caption")).to_contain_text(re.compile(r"\d+ %"))
    expect(frame).to_have_attribute("data-state", "completed")
    expect(frame.locator("img.developing")).to_be_visible()


def test_previews_are_shown_on_the_way(opened: Opener, gateway: ServedGateway) -> None:
    page = opened()
    expect(page.get_by_text("Nothing on the sheet yet")).to_be_visible()
    submitted(gateway, model="builtin/slow-5", partial_images=3)

    expect(page.locator(".frame-link.partial img")).to_be_visible()
    expect(page.locator(FRAMES)).to_have_attribute("data-state", "completed")
    expect(page.locator(".frame-link.partial")).to_have_count(0)


def test_jobs_of_others_appear_by_themselves(page: Page, gateway: ServedGateway) -> None:
    expect(page.get_by_text("Nothing on the sheet yet")).to_be_visible()
    made(gateway, "made elsewhere")

    expect(page.get_by_role("link", name=re.compile("made elsewhere. Done"))).to_be_visible()


def test_the_studio_asks_for_what_the_model_can_do(opened: Opener, gateway: ServedGateway) -> None:
    page = opened("#/studio")
    page.get_by_label("Prompt").fill("a fox in the snow")
    page.get_by_label("Size").select_option("1248x832")
    page.get_by_label("Format").select_option("webp")
    page.get_by_role("spinbutton", name="Pictures").fill("2")
    page.get_by_text("More settings").click()
    page.get_by_label("Seed").fill("7")
    expect(page.locator(".estimate")).to_have_text("Free")
    page.get_by_role("button", name="Develop").click()

    expect(page.locator(".made img")).to_have_count(2)
    request = newest(gateway)["meta"]["request"]
    assert (request["size"], request["output_format"], request["n"], request["seed"]) == ("1248x832", "webp", 2, 7)


def test_a_mask_is_drawn_and_only_what_is_under_it_changes(opened: Opener, gateway: ServedGateway) -> None:
    before = made(gateway, "a quiet meadow", size="512x512")
    page = opened(f"#/jobs/{before['id']}/0")
    page.get_by_role("button", name="Edit").click()
    film = page.get_by_role("application", name=re.compile("^Mask"))
    expect(film).to_be_visible()
    box = film.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.4)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.6, steps=12)
    page.mouse.up()
    page.get_by_label("Prompt").fill("a red barn")
    page.get_by_role("button", name="Develop").click()

    expect(page.locator(".made img")).to_be_visible()
    after = newest(gateway)
    mask, old, new = (picture(url) for url in (after["meta"]["request"]["mask"]["url"], link(before), link(after)))
    assert mask.size == old.size == new.size == (512, 512)
    assert mask.getpixel((256, 256))[3] == 0  # type: ignore[index]  # RGBA
    assert mask.getpixel((20, 20))[3] == 255  # type: ignore[index]  # as above
    assert old.getpixel((20, 20)) == new.getpixel((20, 20))
    assert old.crop((210, 210, 300, 300)).tobytes() != new.crop((210, 210, 300, 300)).tobytes()


def test_a_mask_can_be_drawn_by_keyboard(opened: Opener, gateway: ServedGateway) -> None:
    job = made(gateway, size="256x256")
    page = opened(f"#/studio?operation=image_edit&job={job['id']}&index=0")
    film = page.get_by_role("application", name=re.compile("^Mask"))
    film.focus()
    for key in ("Space", "ArrowRight", "ArrowRight", "ArrowDown", "Space"):
        page.keyboard.press(key)
    expect(page.get_by_role("button", name="Undo")).to_be_enabled()
    page.get_by_label("Prompt").fill("a pond")
    page.get_by_role("button", name="Develop").click()

    expect(page.locator(".made img")).to_be_visible()
    assert "mask" in newest(gateway)["meta"]["request"]


def test_a_picture_is_varied_from_its_view(opened: Opener, gateway: ServedGateway) -> None:
    job = made(gateway)
    page = opened(f"#/jobs/{job['id']}/0")
    page.get_by_role("button", name="Vary").click()

    expect(page.locator(FRAMES)).to_have_count(2)
    expect(page.locator(FRAMES).first.locator("img")).to_be_visible()
    assert newest(gateway)["meta"]["request_type"] == "image_variation"


def test_a_waiting_job_is_cancelled(opened: Opener, gateway: ServedGateway) -> None:
    ask(gateway, "POST", "/api/providers/builtin/pause")
    job = submitted(gateway)
    page = opened(f"#/jobs/{job['id']}/0")
    page.get_by_role("button", name="Cancel").click()

    expect(page.locator(".state-line")).to_contain_text("Cancelled")
    assert ask(gateway, "GET", f"/v1/async/jobs/{job['id']}")["error"]["error"]["code"] == "job_cancelled"


def test_a_job_that_a_provider_has_begun_says_that_its_end_is_on_the_way(
    opened: Opener, gateway: ServedGateway
) -> None:
    job = submitted(gateway, model="builtin/handle-60")
    page = opened(f"#/jobs/{job['id']}/0")
    page.get_by_role("button", name="Cancel").click()

    expect(page.get_by_role("button", name="Cancelling …")).to_be_disabled()
    assert ask(gateway, "GET", f"/v1/async/jobs/{job['id']}")["meta"]["cancelled"] is True


def test_a_job_is_deleted_when_that_is_confirmed(opened: Opener, gateway: ServedGateway) -> None:
    job = made(gateway)
    page = opened(f"#/jobs/{job['id']}/0")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Keep it").click()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog", name="Delete this job?").get_by_role("button", name="Delete").click()

    expect(page.get_by_text("Nothing on the sheet yet")).to_be_visible()
    assert requests.get(f"{gateway.url}/v1/async/jobs/{job['id']}", timeout=10).status_code == 404


def test_the_view_tells_everything_and_agrees_with_the_api(opened: Opener, gateway: ServedGateway) -> None:
    job = made(gateway, "a harbour", seed=3)
    page = opened(f"#/jobs/{job['id']}/0")

    facts = page.locator(".facts")
    expect(facts).to_contain_text("a harbour")
    expect(facts).to_contain_text("builtin/sketch")
    expect(facts).to_contain_text(job["meta"]["pictures"][0]["sha256"])
    expect(facts).to_contain_text("free")
    expect(facts).to_contain_text(job["id"])
    page.get_by_text("Attempts (1)").click()
    expect(facts.locator(".attempts")).to_contain_text("succeeded")


def test_a_failed_job_says_why(opened: Opener, gateway: ServedGateway) -> None:
    job = made(gateway, model="builtin/fail-moderation")
    page = opened(f"#/jobs/{job['id']}/0")

    expect(page.locator(".facts .fault")).to_contain_text("moderation_blocked")
    expect(page.locator(".attempts")).to_contain_text("failed")


@pytest.mark.parametrize("language", ["curl", "Python"])
def test_what_is_copied_makes_the_picture_again(
    language: str, opened: Opener, gateway: ServedGateway, tmp_path: Path
) -> None:
    job = made(gateway, 'it\'s a "quoted" fox', seed=11)
    page = opened(f"#/jobs/{job['id']}/0", permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name=f"Copy as {language}").click()
    expect(page.get_by_text(f"Copied as {language}")).to_be_visible()
    text = page.evaluate("navigator.clipboard.readText()")
    command = ["sh", "-c", text] if language == "curl" else [sys.executable, "-c", text]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout
    again = ask(gateway, "GET", f"/v1/async/jobs/{newest(gateway)['id']}?wait=20&expand=request,pictures")["meta"]
    assert again["request"]["prompt"] == 'it\'s a "quoted" fox'
    assert again["pictures"][0]["sha256"] == job["meta"]["pictures"][0]["sha256"]


def test_the_sheet_is_walked_by_keyboard(opened: Opener, gateway: ServedGateway) -> None:
    for number in range(4):
        made(gateway, f"picture {number}")
    page = opened()
    expect(page.locator(FRAMES)).to_have_count(4)
    page.locator(".frame-link").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".frame-link:focus")).to_have_attribute("aria-label", re.compile("picture 1"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_contain_text("picture 1")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("dialog")).to_contain_text("picture 0")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("Home")
    expect(page.locator(".frame-link:focus")).to_have_attribute("aria-label", re.compile("picture 3"))


def test_filters_narrow_the_sheet(opened: Opener, gateway: ServedGateway) -> None:
    made(gateway, "a good one")
    made(gateway, "a bad one", model="builtin/fail-rejected")
    page = opened()
    expect(page.locator(FRAMES)).to_have_count(2)
    page.get_by_label("State").select_option("failed")
    expect(page.locator(FRAMES)).to_have_count(1)
    page.get_by_label("Kind").select_option("image_edit")
    expect(page.get_by_text("No picture fits these filters")).to_be_visible()
    page.get_by_role("button", name="Clear").click()
    expect(page.locator(FRAMES)).to_have_count(2)


def test_a_phone_has_all_pages(opened: Opener) -> None:
    page = opened(viewport=PHONE)
    page.get_by_role("link", name="Studio").click()
    expect(page.get_by_role("heading", name="Studio")).to_be_attached()
    page.get_by_role("button", name="More").click()
    page.get_by_role("link", name="Providers").click()
    expect(page.get_by_role("heading", name="Providers")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def link(job: object) -> str:
    found: str = job["result"]["data"][0]["url"]  # type: ignore[index]  # a job's body
    return found


def picture(url: str) -> Image.Image:
    with Image.open(io.BytesIO(requests.get(url, timeout=10).content)) as image:
        return image.convert("RGBA")
