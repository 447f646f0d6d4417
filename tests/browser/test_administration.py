"""The administrator's pages, and what others see of them."""

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.api.serving import ServedGateway, settings_for
from tests.browser.client import ask, made, submitted
from tests.browser.conftest import Opener


class Receiver:
    """Takes webhooks, and answers 204."""

    def __init__(self) -> None:
        self.bodies: list[str] = []
        self._came = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                self.send_response(204)
                self.end_headers()
                with receiver._came:
                    receiver.bodies.append(body)
                    receiver._came.notify_all()

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def heard_of(self, job_id: str) -> None:
        with self._came:
            assert self._came.wait_for(lambda: any(job_id in body for body in self.bodies), timeout=20)

    def wait_for(self, count: int) -> None:
        with self._came:
            assert self._came.wait_for(lambda: len(self.bodies) >= count, timeout=20)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


ADMIN_KEY = "an-admin-key-that-nobody-guesses-9Xq2"


def test_the_queue_agrees_with_api_and_metrics(opened: Opener, gateway: ServedGateway) -> None:
    for _ in range(3):
        submitted(gateway, model="builtin/slow-60")
    page = opened("#/queue")

    expect(page.locator(".tile", has_text="Developing").locator("dd")).to_have_text("3")
    lane = ask(gateway, "GET", "/api/queue")["data"][0]
    assert (lane["processing"], lane["pending"]) == (3, 0)
    expect(page.get_by_role("row", name=re.compile("builtin"))).to_contain_text(f"3 of {lane['slots']}")
    metrics = page.request.get(f"{gateway.url}/metrics").text()
    assert 'safelight_queue_depth{provider="builtin",state="processing"} 3.0' in metrics


def test_a_provider_is_paused_and_resumed(opened: Opener, gateway: ServedGateway) -> None:
    page = opened("#/queue")
    page.get_by_role("button", name="Pause builtin").click()
    page.get_by_role("dialog").get_by_role("button", name="Pause").click()
    expect(page.get_by_role("row", name=re.compile("builtin"))).to_contain_text("paused")
    job = submitted(gateway)
    expect(page.locator(".tile", has_text="Waiting").first.locator("dd")).to_have_text("1")

    page.get_by_role("button", name="Resume builtin").click()
    expect(page.get_by_role("button", name="Pause builtin")).to_be_visible()
    assert ask(gateway, "GET", f"/v1/async/jobs/{job['id']}?wait=20")["status"] == "completed"


def test_providers_tell_models_and_prices(opened: Opener) -> None:
    page = opened("#/providers")
    page.get_by_text("known models").click()

    expect(page.get_by_role("row", name=re.compile("^sketch"))).to_contain_text("Edit, Generation, Variation")
    expect(page.get_by_text("OPENAI_API_KEY=sk-… safelight serve")).to_be_visible()


def test_an_endpoint_is_made_tested_and_its_secret_rotated(
    opened: Opener, gateway: ServedGateway, receiver: Receiver
) -> None:
    page = opened("#/webhooks")
    expect(page.get_by_text("Nobody is told yet")).to_be_visible()
    page.get_by_role("button", name="Make an endpoint").click()
    page.get_by_label("Name").fill("orders")
    page.get_by_label("Address").fill(receiver.url)
    page.get_by_label("It is on a private network").check()
    page.get_by_role("button", name="Make it").click()
    secret = page.get_by_role("dialog").locator("code").inner_text()
    assert secret.startswith("whsec_")
    page.get_by_role("button", name="I have it").click()

    page.get_by_role("button", name="Send a test orders").click()
    expect(page.get_by_text("Delivered: the receiver answered 204")).to_be_visible()
    job = made(gateway, headers={"x-bf-async-webhook": "orders"})
    receiver.heard_of(job["id"])
    page.reload()
    deliveries = page.get_by_role("table", name="Deliveries to orders")
    expect(deliveries.get_by_role("link", name=job["id"][:8])).to_be_visible()
    count = len(receiver.bodies)
    deliveries.get_by_role("row", name=re.compile(job["id"][:8])).get_by_role("button", name="Send again").click()
    receiver.wait_for(count + 1)

    page.get_by_role("button", name="Rotate the secret orders").click()
    page.get_by_role("dialog").get_by_role("button", name="Rotate").click()
    expect(page.get_by_role("dialog").locator("code")).to_have_text(re.compile("^whsec_"))
    assert page.get_by_role("dialog").locator("code").inner_text() != secret


def test_usage_agrees_with_the_api(opened: Opener, gateway: ServedGateway) -> None:
    for _ in range(3):
        made(gateway)
    made(gateway, model="builtin/fail-rejected")
    page = opened("#/usage")

    rows = ask(gateway, "GET", "/api/usage?by=model")["data"]

    def tile(name: str) -> Locator:
        return page.locator(".tile", has_text=name).first.locator("dd")

    expect(tile("Jobs")).to_have_text(str(sum(row["jobs"] for row in rows)))
    expect(tile("Failed")).to_have_text("1")
    expect(tile("Pictures")).to_have_text("3")
    expect(page.get_by_role("img", name=re.compile(": 4 \\(")).first).to_be_visible()
    page.get_by_label("Broken down by").select_option("provider")
    row = page.get_by_role("table", name="Usage by provider").get_by_role("row", name=re.compile("^builtin"))
    expect(row).to_contain_text("4")
    metrics = page.request.get(f"{gateway.url}/metrics").text()
    assert 'safelight_jobs_ended_total{key="",model="fail-rejected",provider="builtin",status="failed"' in metrics


def test_a_key_is_made_shown_once_and_revoked(opened: Opener, gateway: ServedGateway) -> None:
    page = opened("#/keys")
    page.get_by_role("button", name="Make a key").click()
    page.get_by_label("Name").fill("shop")
    page.get_by_label("Models").fill("builtin/sketch")
    page.get_by_label("Budget in US dollars").fill("12.50")
    page.get_by_role("button", name="Make it").click()
    value = page.get_by_role("dialog").locator("code").inner_text()
    page.get_by_role("button", name="I have it").click()

    row = page.get_by_role("row", name=re.compile("^shop"))
    expect(row).to_contain_text("builtin: sketch")
    expect(row).to_contain_text("$0 of $12.50")
    made(gateway, headers={"Authorization": f"Bearer {value}"})
    page.get_by_role("button", name="Revoke shop").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(row).to_contain_text("revoked")


class TestWithAdminKey:
    @pytest.fixture
    def gateway(self, tmp_path: Path) -> Iterator[ServedGateway]:
        with ServedGateway(settings_for(tmp_path / "data", auth={"admin_key": ADMIN_KEY})) as gateway:
            yield gateway

    def test_the_page_asks_for_it_and_keeps_it_in_the_tab(self, opened: Opener) -> None:
        page = opened("#/providers")
        expect(page.get_by_role("dialog", name="Sign in")).to_be_visible()
        page.get_by_label("Key").fill(ADMIN_KEY)
        page.get_by_role("button", name="Sign in").last.click()

        expect(page.get_by_role("heading", name="builtin")).to_be_visible()
        assert page.evaluate("sessionStorage.getItem('safelight.key')") == ADMIN_KEY
        assert page.evaluate("JSON.stringify(localStorage)").find(ADMIN_KEY) == -1
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_text("This page is for the administrator")).to_be_visible()


class TestWithVirtualKeys:
    KEYS = ("sk-bf-11111111-aaaa-4bbb-8ccc-000000000001", "sk-bf-22222222-aaaa-4bbb-8ccc-000000000002")

    @pytest.fixture
    def gateway(self, tmp_path: Path) -> Iterator[ServedGateway]:
        keys = [{"name": f"team-{place}", "value": value} for place, value in enumerate(self.KEYS)]
        settings = settings_for(
            tmp_path / "data",
            auth={"required": True, "admin_key": ADMIN_KEY},
            virtual_keys=keys,
        )
        with ServedGateway(settings) as gateway:
            yield gateway

    def test_a_key_sees_its_own_jobs_and_no_others(self, opened: Opener, gateway: ServedGateway) -> None:
        mine, theirs = ({"Authorization": f"Bearer {value}"} for value in self.KEYS)
        made(gateway, "mine alone", headers=mine)
        made(gateway, "not for me", headers=theirs)
        page = opened()
        sign_in(page, self.KEYS[0])

        expect(page.locator(".frame")).to_have_count(1)
        expect(page.get_by_role("link", name=re.compile("mine alone"))).to_be_visible()
        made(gateway, "nor this one", headers=theirs)
        made(gateway, "mine again", headers=mine)
        expect(page.get_by_role("link", name=re.compile("mine again"))).to_be_visible()
        expect(page.locator(".frame")).to_have_count(2)

    def test_a_wrong_key_is_told(self, opened: Opener) -> None:
        page = opened()
        sign_in(page, "sk-bf-33333333-aaaa-4bbb-8ccc-000000000003")

        expect(page.get_by_text("The gateway does not know this key.")).to_be_visible()


def sign_in(page: Page, key: str) -> None:
    page.get_by_role("banner").get_by_role("button", name="Sign in").click()
    page.get_by_label("Key").fill(key)
    page.get_by_role("dialog").get_by_role("button", name="Sign in").click()
