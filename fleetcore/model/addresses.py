"""Network addresses of peers: the host in ``host:port``, and whether it lies in a network."""

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

Network = IPv4Network | IPv6Network


def host_of(peer: str) -> str:
    """The host of ``host:port``; an IPv6 host must have its port. A peer without a colon, as a path, is the host."""
    return peer.rpartition(":")[0].strip("[]") or peer


def within(host: str, networks: Sequence[Network]) -> bool:
    """Whether the address ``host`` lies in one of the networks; IPv4 mapped into IPv6 counts as IPv4."""
    if not networks:
        return False
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in networks)
