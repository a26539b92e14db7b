"""Authenticates the sender: takes a credential from the connection or the request, and opens its session.

Authentication runs once per connection and credential. Each later request costs a dictionary look-up and a check of
``session.ended``; a lost right closes the connection (:mod:`fleetcore_http.connection`).
"""

from fleetcore.errors import NotAuthenticated
from fleetcore.interfaces.protocol import Session
from fleetcore.model.credential import DEVICE_TOKEN, CertificateCredential, Credential, TokenCredential
from fleetcore.wire.headers import Headers
from fleetcore.wire.proxies import client_cert
from fleetcore_http.connection import DeviceConnection

#: The key of the session of a connection's own certificate: no header.
_CERTIFICATE = ""


def known(connection: DeviceConnection, headers: Headers) -> Session | None:
    """The open session of this credential on this connection, if there is one: the fast path."""
    key = _key(connection, headers)
    if key is None:
        return None
    session = connection.sessions.get(key)
    return session if session is not None and session.ended is None else None


async def identify(connection: DeviceConnection, headers: Headers) -> Session:
    """The session of the sender, opened if necessary.

    Raises:
        NotAuthenticated: no credential, or an invalid one.
        NotAuthorised: a device without rights.
    """
    session = known(connection, headers)
    if session is not None:
        return session
    key = _key(connection, headers)
    if key is None:
        raise NotAuthenticated("Neither a client certificate nor a device token was sent")
    credential = _credential(connection, key)
    state = connection.state
    session = await state.plane.authenticate(
        credential, protocol=state.context.name, peer=connection.peer, lasting=False
    )
    connection.adopt(key, session)
    return session


async def identify_if_shown(connection: DeviceConnection, headers: Headers) -> Session | None:
    """Like :func:`identify`, but None if no credential is sent."""
    return None if _key(connection, headers) is None else await identify(connection, headers)


def shown_certificate(connection: DeviceConnection, headers: Headers) -> bytes | None:
    """The certificate of the peer, or of the device that a trusted proxy names, DER; not checked yet."""
    if not connection.proxied:
        return connection.certificate
    key = _key(connection, headers)
    return client_cert(key) if key is not None and key.startswith(":") else None


def _key(connection: DeviceConnection, headers: Headers) -> str | None:
    """Identifies the request's credential on its connection: a header's value, or the certificate."""
    if connection.proxied:
        shown = headers.get("client-cert")
        if shown is not None:
            return shown
    elif connection.certificate is not None:
        return _CERTIFICATE
    return headers.get("authorization")


def _credential(connection: DeviceConnection, key: str) -> Credential:
    if key == _CERTIFICATE and connection.certificate is not None:
        return CertificateCredential(connection.certificate)
    if connection.proxied and key.startswith(":"):
        return CertificateCredential(client_cert(key))
    scheme, _, token = key.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token.startswith(DEVICE_TOKEN):
        raise NotAuthenticated("Authorization must be a device token")
    return TokenCredential(token)
