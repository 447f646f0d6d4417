"""Keeps requests to addresses that others chose away from our own network.

A name is checked by what it resolves to, and the checked address is the one connected to: a name that changes its
mind in between (DNS rebinding) gains nothing.
"""

import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from aiohttp import ThreadedResolver
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

_REFUSED_V4 = tuple(
    IPv4Network(network)
    for network in (
        "100.64.0.0/10",  # carrier-grade NAT; some clouds keep their metadata there
        "168.63.129.16/32",  # Azure's host, public by number alone
        "192.0.0.0/24",  # protocol assignments; another cloud's metadata
        "192.88.99.0/24",  # relays of 6to4
        "240.0.0.0/4",
    )
)
_GLOBAL_V6 = IPv6Network("2000::/3")
_REFUSED_V6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments, Teredo among them: an IPv4 address of the sender's choice inside
        "2001:db8::/32",
        "2002::/16",  # 6to4: the same
        "3fff::/20",
    )
)
_PRIVATE_V4 = tuple(
    IPv4Network(network)
    for network in ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
)
_PRIVATE_V6 = (IPv6Network("::1/128"), IPv6Network("fc00::/7"))
_METADATA = frozenset(
    ip_address(address)
    for address in (
        "100.100.100.200",  # Alibaba Cloud; the others' lie in link-local and reserved networks
        "fd00:ec2::254",  # AWS
        "fd20:ce::254",  # Google Cloud
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")
"""How networks without IPv4 reach it: as good as the address inside."""
_ISATAP = frozenset({0x0000_5EFE, 0x0200_5EFE})


class AddressRefused(OSError):
    """The address is not for us to connect to. An `OSError`, for that is what a connector expects of a resolver."""


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is in the public internet, looking through the forms that wrap one in another."""
    if isinstance(address, IPv4Address):
        public = address.is_global and not address.is_multicast
        return public and not any(address in network for network in _REFUSED_V4)
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    inner = IPv4Address(int(address) & 0xFFFF_FFFF)
    if address in _NAT64:
        return is_public(inner)
    if address not in _GLOBAL_V6 or any(address in network for network in _REFUSED_V6):
        return False
    return not _is_isatap(address) or is_public(inner)


def is_private(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is in somebody's own network and no machine's metadata service, through all its forms."""
    if address in _METADATA:
        return False
    if isinstance(address, IPv4Address):
        return any(address in network for network in _PRIVATE_V4)
    if address.ipv4_mapped is not None:
        return is_private(address.ipv4_mapped)
    return any(address in network for network in _PRIVATE_V6) and not _is_isatap(address)


def _is_isatap(address: IPv6Address) -> bool:
    return int(address) >> 32 & 0xFFFF_FFFF in _ISATAP


def may_be_called(address: IPv4Address | IPv6Address, *, private: bool) -> bool:
    """Whether to connect there; `private` where the operator has allowed private networks."""
    return is_public(address) or (private and is_private(address))


def check_url(url: URL, *, private: bool = False) -> None:
    """Raise `AddressRefused` for what can be refused without looking a name up: anything but a plain https link.

    `private` lets plain http and private networks through.
    """
    if url.scheme not in ({"https", "http"} if private else {"https"}) or not url.host:
        raise AddressRefused("the link is not an https address")
    if url.user is not None or url.password is not None:
        raise AddressRefused("the link holds a user name")
    _check_host(url.host, private=private)


def _check_host(host: str, *, private: bool) -> None:
    try:
        address = ip_address(host)
    except ValueError:
        if _is_odd_ipv4(host):
            raise AddressRefused("the link spells an address in an unusual way") from None
        return
    if not may_be_called(address, private=private):
        raise _not_public(private=private)


def _not_public(*, private: bool) -> AddressRefused:
    return AddressRefused(f"the link leads to an address that is {'never called' if private else 'not public'}")


def _is_odd_ipv4(host: str) -> bool:
    """Whether the C library takes it for an address: `127.1`, `0x7f.1`, `017700000001`, `2130706433`."""
    try:
        socket.inet_aton(host.rstrip("."))
    except (OSError, UnicodeEncodeError):
        return False
    return True


class GuardedResolver(AbstractResolver):
    """Resolves names, and refuses those that have any address that is not public."""

    def __init__(self, resolver: AbstractResolver | None = None, *, private: bool = False) -> None:
        """Guard `resolver`; the system's by default. `private` lets private networks through."""
        self._resolver = resolver or ThreadedResolver()
        self._private = private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Look the name up; raises `AddressRefused`, or `OSError` when there is no such name."""
        found = await self._resolver.resolve(host, port, family)
        for result in found:
            if not may_be_called(ip_address(result["host"]), private=self._private):
                raise _not_public(private=self._private)
        return found

    async def close(self) -> None:
        """Close the resolver inside."""
        await self._resolver.close()
