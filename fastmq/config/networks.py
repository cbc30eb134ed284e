"""IP addresses and the networks they are in."""

import ipaddress
from collections.abc import Iterable, Sequence

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse(texts: Iterable[str]) -> list[Network]:
    """Networks like `10.0.0.0/8`; an address alone is a network of one.

    :raises ValueError: one of them is none.
    """
    return [ipaddress.ip_network(text) for text in texts]


def is_within(address: str, networks: Sequence[Network]) -> bool:
    """Whether an IP address is in any of the networks; an IPv4 address that came over IPv6 counts as what it is."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return any(found in network for network in networks)
