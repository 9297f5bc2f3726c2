"""Which network addresses lead nowhere but to this machine."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether ``host``, a name or an IP address without a port, is this machine's loopback.

    No name is looked up: one that is not "localhost" may lead anywhere, tomorrow if not today.
    """
    if host.lower() == "localhost":
        return True
    address = as_ip_address(host)
    return address is not None and address.is_loopback


def as_ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """``host`` as an address, with or without the brackets of a URL; None if it is a name."""
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
