"""Proxies that end TLS before a listener: which ones may send ``Client-Cert`` (RFC 9440), and its decoding.

From a trusted proxy the header is the peer's certificate, and the proxy's own certificate does not count. From any
other peer it is ignored: a header alone never authenticates a device.
"""

import binascii
from base64 import b64decode
from collections.abc import Sequence
from ipaddress import ip_network

from fleetcore.errors import ConfigError, NotAuthenticated
from fleetcore.model.addresses import Network

#: The widest network of proxies: 10.0.0.0/8 is the largest private one (RFC 1918 §3); a provider's block is a /32
#: (RFC 6177, RIPE-738 §5.1).
_WIDEST = {4: 8, 6: 32}


def proxies(trusted: Sequence[str]) -> tuple[Network, ...]:
    """The setting ``trusted_proxies`` as networks.

    Raises :class:`ConfigError` for anything that is not an address, and for networks too wide for one operator.
    """
    remedy = "Name addresses or networks: 192.0.2.10 or 192.0.2.0/28"
    try:
        networks = tuple(ip_network(text) for text in trusted)
    except ValueError as error:
        raise ConfigError(f"trusted_proxies: {error}", remedy=remedy) from error
    for network in networks:
        if network.prefixlen < _WIDEST[network.version]:
            message = f"trusted_proxies: any machine in {network} could be any device"
            raise ConfigError(message, remedy=remedy)
    return networks


def client_cert(value: str) -> bytes:
    """``Client-Cert`` (RFC 9440 §2.1): the certificate's DER as a byte sequence of RFC 8941, ``:base64:``.

    Raises :class:`NotAuthenticated` (``certificate_invalid``) for anything else.
    """
    text = value.strip()
    try:
        der = b64decode(text[1:-1], validate=True) if text.startswith(":") and text.endswith(":") else b""
    except (ValueError, binascii.Error):
        der = b""
    if not der:
        raise NotAuthenticated("Client-Cert is not a byte sequence as in RFC 9440", code="certificate_invalid")
    return der
