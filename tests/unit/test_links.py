"""Signed links: they outlive the process that made them, so their shape is a promise."""

from datetime import timedelta

import pytest
from starlette.requests import Request

from safelight.api.links import Links, used_address
from safelight.domain.ids import JobId
from tests.making import NOON, image

JOB = JobId("01a2141e-a718-4dba-8221-667c1135a15c")
SIGNATURE = "PuKp6NwntvBLVMjQ4sn_w1cTM0gw_fm6f_DNX4otjjU"


def test_a_link_is_what_it_was_in_earlier_releases() -> None:
    links = Links(b"s" * 32, public_url=None)
    url = links.url(image("f77b97e209d88443", JOB), expires_at=NOON + timedelta(seconds=0.5), base_url="http://host/")

    assert url == f"http://host/v1/files/{JOB}/f77b97e209d88443.png?expires=1795435201&signature={SIGNATURE}"
    assert links.valid(JOB, "f77b97e209d88443", expires="1795435201", signature=SIGNATURE)
    assert not links.valid(JOB, "f77b97e209d88443", expires="1795435202", signature=SIGNATURE)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        (b"images.example:8443", "http://images.example:8443/"),
        (b"[::1]:80", "http://[::1]:80/"),
        (b"a/b?c", "http://127.0.0.1:8080/"),
        (None, "http://127.0.0.1:8080/"),
    ],
)
def test_the_address_is_that_of_the_host_header_if_it_is_one(host: bytes | None, address: str) -> None:
    headers = [] if host is None else [(b"host", host)]
    scope = {"type": "http", "scheme": "http", "server": ("127.0.0.1", 8080), "path": "/any", "headers": headers}

    assert used_address(Request(scope)) == address
