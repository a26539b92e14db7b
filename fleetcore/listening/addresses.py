"""What counts as one address: an IPv4 address, or the /64 that an IPv6 customer has whole."""

from ipaddress import IPv6Address, ip_address


def network(address: str) -> str:
    """The key of an address; text that is none stays as it is."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(IPv6Address(int(parsed) >> 64 << 64))
    return str(parsed)
