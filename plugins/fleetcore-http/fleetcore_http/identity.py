"""Who is speaking: a credential taken from the connection or the request, and the session it opened.

Authentication is paid for once per connection and credential. Each later request costs a dictionary look-up and a look
at ``session.ended``; losing a right closes the connection by itself (:mod:`fleetcore_http.connection`).
"""

import binascii
from base64 import b64decode

from aiohttp import web

from fleetcore.errors import NotAuthenticated
from fleetcore.interfaces.protocol import Session
from fleetcore.model.credential import CertificateCredential, Credential, TokenCredential
from fleetcore_http.connection import DeviceConnection

#: The prefix of a device token (wire.md §2); other bearers are not for this door.
_DEVICE_TOKEN = "fc_dev_"  # noqa: S105 - a prefix, no secret

#: The session of a connection's own certificate stands under no header.
_CERTIFICATE = ""


def known(connection: DeviceConnection, request: web.BaseRequest) -> Session | None:
    """The live session of this credential on this connection, where there is one: the quick path."""
    key = _key(connection, request)
    if key is None:
        return None
    session = connection.sessions.get(key)
    return session if session is not None and session.ended is None else None


async def identify(connection: DeviceConnection, request: web.BaseRequest) -> Session:
    """The session of whoever speaks, opened where it has to be.

    Raises:
        NotAuthenticated: no credential, or none that is valid.
        NotAuthorised: a device without rights.
    """
    session = known(connection, request)
    if session is not None:
        return session
    key = _key(connection, request)
    if key is None:
        raise NotAuthenticated("Neither a client certificate nor a device token was shown")
    credential = _credential(connection, key)
    site = connection.site
    session = await site.plane.authenticate(credential, protocol=site.context.name, peer=connection.peer, lasting=False)
    connection.adopt(key, session)
    return session


async def identify_if_shown(connection: DeviceConnection, request: web.BaseRequest) -> Session | None:
    """As :func:`identify`, but None where nobody claims to be anybody."""
    return None if _key(connection, request) is None else await identify(connection, request)


def shown_certificate(connection: DeviceConnection, request: web.BaseRequest) -> bytes | None:
    """The certificate that the peer, or a trusted proxy in its name, has shown, DER; nothing is checked yet."""
    if not connection.proxied:
        return connection.certificate
    key = _key(connection, request)
    return _client_cert(key) if key is not None and key.startswith(":") else None


def _key(connection: DeviceConnection, request: web.BaseRequest) -> str | None:
    """What tells this request's credential from others on the connection: a header's value, or the certificate."""
    if connection.proxied:
        shown = request.headers.getall("Client-Cert", ())
        if len(shown) > 1:
            raise NotAuthenticated("There is more than one Client-Cert header")
        if shown:
            return shown[0]
    elif connection.certificate is not None:
        return _CERTIFICATE
    return request.headers.get("Authorization")


def _credential(connection: DeviceConnection, key: str) -> Credential:
    if key == _CERTIFICATE and connection.certificate is not None:
        return CertificateCredential(connection.certificate)
    if connection.proxied and key.startswith(":"):
        return CertificateCredential(_client_cert(key))
    scheme, _, token = key.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token.startswith(_DEVICE_TOKEN):
        raise NotAuthenticated("Authorization is no device token")
    return TokenCredential(token)


def _client_cert(value: str) -> bytes:
    """RFC 9440 §2.1: the certificate's DER as a byte sequence of RFC 8941, ``:base64:``."""
    text = value.strip()
    try:
        der = b64decode(text[1:-1], validate=True) if text.endswith(":") else b""
    except (ValueError, binascii.Error):
        der = b""
    if not der:
        raise NotAuthenticated("Client-Cert is no byte sequence as RFC 9440 writes it", code="certificate_invalid")
    return der
