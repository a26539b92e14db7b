"""Certificate requests in the forms that clients send: PEM, DER, or the base64 of DER."""

import binascii
from base64 import b64decode, b64encode

from fleetcore.errors import Refused

#: RFC 5967.
PKCS10 = "application/pkcs10"

_BEGIN, _END = b"-----BEGIN CERTIFICATE REQUEST-----", b"-----END CERTIFICATE REQUEST-----"

#: A request is an ASN.1 SEQUENCE, which as DER starts so (X.690 §8.9).
_DER_SEQUENCE = 0x30


def as_pem(csr: bytes) -> bytes:
    """``csr`` as PEM, ASCII; only the fleet's CA checks whether it is a valid request.

    EST clients send bare base64 (RFC 8951 §3). Raises :class:`Refused` (``csr_invalid``) for anything else.
    """
    text = csr.strip()
    if text.startswith(b"-----BEGIN ") and text.isascii():
        return text + b"\n"
    try:
        der = csr if csr[:1] == bytes([_DER_SEQUENCE]) else b64decode(b"".join(text.split()), validate=True)
    except (ValueError, binascii.Error):
        der = b""
    if not der:
        raise Refused("The body is not a certificate request", code="csr_invalid")
    coded = b64encode(der)
    lines = [coded[at : at + 64] for at in range(0, len(coded), 64)]  # RFC 7468 §2
    return b"\n".join([_BEGIN, *lines, _END, b""])
