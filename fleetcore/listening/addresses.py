"""What counts as one address: an IPv4 address, or an IPv6 /64, which one customer usually has whole."""

from ipaddress import IPv6Address, ip_address


def network(address: str) -> str:
    """The network that an address belongs to, as a key; text that is not an address is returned unchanged."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(IPv6Address(int(parsed) >> 64 << 64))
    return str(parsed)
