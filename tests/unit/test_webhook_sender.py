"""Where a webhook may go, and what of an answer is read."""

import socket
from collections.abc import AsyncIterator
from datetime import timedelta
from email.utils import format_datetime

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from safelight.adapters.webhooks import HttpWebhookSender
from safelight.domain.errors import InvalidRequest
from safelight.domain.webhook import DeliveryLimits, Reply, WebhookEvent
from tests.doubles import FakeClock
from tests.making import NOON, endpoint
from tests.receiver import Receiver

METADATA = [
    "169.254.169.254",
    "168.63.129.16",
    "100.100.100.200",
    "192.0.0.192",
    "fe80::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::",
    "0.0.0.0",  # noqa: S104 - an address to refuse, not to bind
    "224.0.0.1",
]
PRIVATE = ["127.0.0.1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "::1", "fd12::1", "::ffff:10.0.0.1"]


class Names(AbstractResolver):
    """Answers each look-up with the next address; the last one stays."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)
        self.asked = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked += 1
        address = self.addresses.pop(0) if len(self.addresses) > 1 else self.addresses[0]
        return [ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)]

    async def close(self) -> None:
        pass


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


async def sent(url: str, *, names: Names | None = None, private: bool = True, timeout_s: int = 2) -> Reply:
    sender = HttpWebhookSender(clock=FakeClock(), resolver=names)
    limits = DeliveryLimits(attempt_timeout_seconds=timeout_s)
    try:
        it = endpoint(url=url, allow_private_network=private, limits=limits)
        return await sender.send(it, "msg", WebhookEvent.COMPLETED, b"{}")
    finally:
        await sender.close()


@pytest.mark.parametrize("address", [*METADATA, *PRIVATE])
async def test_a_public_endpoint_never_reaches_inside(address: str) -> None:
    """By a name that leads there, and by the address itself."""
    reply = await sent("https://hooks.example/", names=Names(address), private=False)
    assert (reply.status_code, reply.error) == (
        None,
        "url cannot be called: the link leads to an address that is not public",
    )
    literal = f"[{address}]" if ":" in address else address
    assert "cannot be called" in ((await sent(f"https://{literal}/", private=False)).error or "")


@pytest.mark.parametrize("address", METADATA)
async def test_a_private_one_never_reaches_metadata(address: str) -> None:
    reply = await sent("http://hooks.example/", names=Names(address))
    assert (reply.status_code, reply.error) == (
        None,
        "url cannot be called: the link leads to an address that is never called",
    )


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_one_may_reach_inside(address: str) -> None:
    literal = f"[{address}]" if ":" in address else address
    HttpWebhookSender.check(endpoint(url=f"http://{literal}/", allow_private_network=True).settings)


@pytest.mark.parametrize("host", ["0x7f.1", "2130706433", "127.1", "[::ffff:169.254.169.254]", "[fe80::1]"])
def test_odd_spellings_are_refused_at_once(host: str) -> None:
    with pytest.raises(InvalidRequest, match="url cannot be called"):
        HttpWebhookSender.check(endpoint(url=f"https://{host}/").settings)


async def test_the_address_that_was_judged_is_the_one_called(receiver: Receiver) -> None:
    """A name that would change its mind after the look at it (DNS rebinding) is asked once."""
    names = Names("127.0.0.1", "169.254.169.254")
    reply = await sent(f"http://hooks.example:{receiver.port}/", names=names)
    assert (reply.status_code, names.asked) == (204, 1)


@pytest.mark.parametrize("target", ["http://169.254.169.254/latest/meta-data", "/elsewhere"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(receiver: Receiver, status: int, target: str) -> None:
    receiver.answer = lambda: web.Response(status=status, headers={"Location": target})
    assert (await sent(receiver.url)).status_code == status
    assert len(receiver.calls) == 1


async def test_of_a_refusal_the_beginning_is_kept(receiver: Receiver) -> None:
    receiver.answer = lambda: web.Response(status=500, body=b"\xff" + b"a" * 1_000_000)
    error = (await sent(receiver.url)).error
    assert error is not None
    assert error.startswith("\ufffdaaa")
    assert len(error) == 4096


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ("120", 120.0),
        (" 7 ", 7.0),
        (format_datetime(NOON + timedelta(seconds=90), usegmt=True), 90.0),
        ("soon", None),
        ("-1", None),
        ("9" * 400, 999_999_999.0),
    ],
)
async def test_retry_after_in_both_forms(receiver: Receiver, said: str, heard: float | None) -> None:
    receiver.answer = lambda: web.Response(status=503, headers={"Retry-After": said})
    assert (await sent(receiver.url)).retry_after_s == heard


async def test_nobody_there_is_told_without_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    reply = await sent(f"http://127.0.0.1:{port}/?key=secret")
    assert reply.status_code is None
    assert reply.error is not None
    assert reply.error.startswith("no connection")
    assert "secret" not in reply.error


async def test_a_receiver_without_tls_is_no_https_receiver(receiver: Receiver) -> None:
    reply = await sent(receiver.url.replace("http://", "https://"))
    assert reply.status_code is None
    assert receiver.calls == []


async def test_silence_ends_the_call(receiver: Receiver) -> None:
    receiver.hold()
    assert (await sent(receiver.url, timeout_s=1)).error == "no answer within 1 s"
