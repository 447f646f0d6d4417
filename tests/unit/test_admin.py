from collections.abc import Mapping

import pytest
from starlette.requests import HTTPConnection

from safelight.api.admin import AdminDoor

KEY = "the-operators-own-key"
LOCKED = AdminDoor(key=KEY, loopback=False)
OPEN = AdminDoor(key=None, loopback=True)


def asking(headers: Mapping[str, str]) -> HTTPConnection:
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    return HTTPConnection({"type": "http", "headers": pairs})


@pytest.mark.parametrize("shown", [f"Bearer {KEY}", f"bearer  {KEY} "])
def test_the_key_opens(shown: str) -> None:
    assert LOCKED.fault(asking({"authorization": shown, "host": "images.example"})) is None


@pytest.mark.parametrize(
    "shown", ["", KEY, f"Basic {KEY}", f"Bearer {KEY}x", "Bearer", f"Bearer {KEY[:-1]}", "Bearer ü"]
)
def test_nothing_else_does(shown: str) -> None:
    fault = LOCKED.fault(asking({"authorization": shown, "host": "127.0.0.1"}))
    assert fault is not None
    assert KEY not in fault


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost", "[::1]:8080", "LOCALHOST:1"])
def test_without_a_key_it_is_open_to_this_machine(host: str) -> None:
    assert OPEN.fault(asking({"host": host})) is None
    assert OPEN.fault(asking({"host": host, "origin": f"http://{host}"})) is None


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"host": "evil.example:8080"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "127.0.0.1:x"},
        {"host": "127.0.0.1:8080", "origin": "http://evil.example"},
        {"host": "127.0.0.1:8080", "origin": "http://127.0.0.1:3000"},
        {"host": "127.0.0.1:8080", "origin": "null"},
        {"host": "127.0.0.1:8080", "x-forwarded-for": "8.8.8.8"},
        {"host": "127.0.0.1:8080", "forwarded": "for=8.8.8.8"},
    ],
)
def test_but_not_to_pages_and_proxies(headers: Mapping[str, str]) -> None:
    assert OPEN.fault(asking(headers)) is not None


def test_beyond_loopback_there_must_be_a_key() -> None:
    assert AdminDoor(key=None, loopback=False).fault(asking({"host": "127.0.0.1"})) is not None


def test_it_never_prints_its_key() -> None:
    assert KEY not in repr(LOCKED)
