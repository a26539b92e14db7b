"""Who is speaking: a credential taken from the connection or the request, and the session it opened.

Authentication is paid for once per connection and credential. Each later request costs a dictionary look-up and a look
at ``session.ended``; losing a right closes the connection by itself (:mod:`fleetcore_http.connection`).
"""

from fleetcore.errors import NotAuthenticated
from fleetcore.interfaces.protocol import Session
from fleetcore.model.credential import DEVICE_TOKEN, CertificateCredential, Credential, TokenCredential
from fleetcore.wire.headers import Headers
from fleetcore.wire.proxies import client_cert
from fleetcore_http.connection import DeviceConnection

#: The session of a connection's own certificate stands under no header.
_CERTIFICATE = ""


def known(connection: DeviceConnection, headers: Headers) -> Session | None:
    """The live session of this credential on this connection, where there is one: the quick path."""
    key = _key(connection, headers)
    if key is None:
        return None
    session = connection.sessions.get(key)
    return session if session is not None and session.ended is None else None


async def identify(connection: DeviceConnection, headers: Headers) -> Session:
    """The session of the caller, opened where it has to be.

    Raises:
        NotAuthenticated: no credential, or none that is valid.
        NotAuthorised: a device without rights.
    """
    session = known(connection, headers)
    if session is not None:
        return session
    key = _key(connection, headers)
    if key is None:
        raise NotAuthenticated("Neither a client certificate nor a device token was shown")
    credential = _credential(connection, key)
    state = connection.state
    session = await state.plane.authenticate(
        credential, protocol=state.context.name, peer=connection.peer, lasting=False
    )
    connection.adopt(key, session)
    return session


async def identify_if_shown(connection: DeviceConnection, headers: Headers) -> Session | None:
    """As :func:`identify`, but None where no credential is shown."""
    return None if _key(connection, headers) is None else await identify(connection, headers)


def shown_certificate(connection: DeviceConnection, headers: Headers) -> bytes | None:
    """The certificate that the peer, or a trusted proxy in its name, has shown, DER; nothing is checked yet."""
    if not connection.proxied:
        return connection.certificate
    key = _key(connection, headers)
    return client_cert(key) if key is not None and key.startswith(":") else None


def _key(connection: DeviceConnection, headers: Headers) -> str | None:
    """What tells this request's credential from others on the connection: a header's value, or the certificate."""
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
        raise NotAuthenticated("Authorization is not a device token")
    return TokenCredential(token)
