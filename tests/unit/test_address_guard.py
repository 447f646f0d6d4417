import socket
from ipaddress import ip_address

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from safelight.adapters.address_guard import AddressRefused, GuardedResolver, check_url, is_public

PUBLIC = [
    "8.8.8.8",
    "1.1.1.1",
    "104.16.0.1",
    "2606:4700::1111",
    "2a00:1450:4001:801::200e",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "2606:4700::5efe:808:808",
]
REFUSED = [
    "0.0.0.0",  # noqa: S104 - an address to refuse, not to bind
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:0:8.8.8.8",
    "64:ff9b::10.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::808:808",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::",
    "2606:4700::5efe:10.0.0.1",
    "2606:4700::200:5efe:127.0.0.1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize("address", REFUSED)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        "https://cdn.example/a.png",
        "https://cdn.example:8443/a.png?x=1",
        "https://8.8.8.8/",
        "https://[2606:4700::1111]/",
        "https://a1.example/",
        "https://0x7f.example/",
        "https://bücher.example/",
    ],
)
def test_links_that_may_be_looked_up(url: str) -> None:
    check_url(URL(url))


@pytest.mark.parametrize(
    "url",
    [
        "http://cdn.example/",
        "ftp://cdn.example/",
        "file:///etc/passwd",
        "//cdn.example/a",
        "a.png",
        "",
        "https://user@cdn.example/",
        "https://:secret@cdn.example/",
        "https://127.0.0.1/",
        "https://127.1/",
        "https://0/",
        "https://2130706433/",
        "https://017700000001/",
        "https://0x7f000001/",
        "https://0x7f.1/",
        "https://0177.0.0.1/",
        "https://127.0.0.1./",
        "https://8.8.8.8./",
        "https://134744072/",
        "https://１２７.0.0.1/",  # noqa: RUF001 - an odd spelling to refuse
        "https://127。0。0。1/",
        "https://[::1]/",
        "https://[::ffff:169.254.169.254]/",
        "https://[fe80::1%25eth0]/",
        "https://169.254.169.254/latest/meta-data",
    ],
)
def test_links_that_are_refused_unseen(url: str) -> None:
    with pytest.raises(AddressRefused):
        check_url(URL(url))


class Names(AbstractResolver):
    """Answers every name with the same addresses."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.closed = False

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in self.addresses
        ]

    async def close(self) -> None:
        self.closed = True


async def test_names_are_judged_by_their_addresses() -> None:
    found = await GuardedResolver(Names("8.8.8.8", "2606:4700::1111")).resolve("cdn.example", 443)
    assert [result["host"] for result in found] == ["8.8.8.8", "2606:4700::1111"]


@pytest.mark.parametrize("addresses", [("127.0.0.1",), ("8.8.8.8", "10.0.0.1"), ("fe80::1%eth0",)])
async def test_one_bad_address_is_enough(addresses: tuple[str, ...]) -> None:
    with pytest.raises(AddressRefused):
        await GuardedResolver(Names(*addresses)).resolve("cdn.example", 443)


async def test_the_resolver_inside_is_closed() -> None:
    names = Names()
    await GuardedResolver(names).close()
    assert names.closed


async def test_the_systems_resolver_is_guarded_too() -> None:
    resolver = GuardedResolver()
    with pytest.raises(AddressRefused):
        await resolver.resolve("localhost", 443)
    await resolver.close()
