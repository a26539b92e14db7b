"""TLS contexts for devices, made in one place so that every listener and every client has the same rules.

TLS 1.2 or newer; only the fleet's own CAs are trusted; and a listener issues no session tickets, because a device that
resumes is not asked for its certificate again. The fleet checks the certificate beyond its chain, and its revocation,
after the handshake.

TLS 1.2 has a second way to resume, by session id, from a cache that Python cannot disable; a session stays in it while
its connection is open and after a clean end. Such a session keeps the peer's certificate, so the check after the
handshake, on every connection, still finds a revoked or expired one.
"""

import os
import ssl
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

#: X509_V_FLAG_NO_CHECK_TIME of OpenSSL (x509_vfy.h), for which Python has no name.
_NO_CHECK_TIME = ssl.VerifyFlags(0x200000)


class ClosingSocket(ssl.SSLSocket):
    """A context's ``sslsocket_class`` that closes the socket when the handshake fails, which some libraries forget."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


def client_context(
    *,
    ca: bytes | None,
    certificate: bytes | None = None,
    key: bytes | None = None,
    password: str | None = None,
    now_ms: Callable[[], int | None] | None = None,
) -> ssl.SSLContext:
    """A client's context that trusts only ``ca`` and presents ``certificate`` where there is one.

    Args:
        ca: CA certificates, PEM. None trusts no server: the handshake fails, and never falls back to the system's CAs.
        certificate: the chain, PEM, leaf first.
        key: the private key, PEM.
        password: of an encrypted key.
        now_ms: tells the time by which the server's certificates are judged, or None while it is not known: then their
            dates are not judged. By default OpenSSL judges them, by the machine's clock.

    It checks the server's name. Raises ``ssl.SSLError`` for PEM that cannot be read or a key of another certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = ClosingSocket
    if ca is not None:
        context.load_verify_locations(cadata=ca.decode("ascii"))
    if certificate is not None and key is not None:
        load_identity(context, certificate, key, password=password)
    if now_ms is not None:
        context.verify_flags |= _NO_CHECK_TIME
        context.sslobject_class, context.sslsocket_class = _judged(now_ms)
    return context


def server_context(
    certificate: Path,
    key: Path,
    ca: bytes,
    *,
    client_certificates: bool = True,
    enrolling: bool = False,
    refused: Callable[[str], None] | None = None,
    password: str | None = None,
) -> ssl.SSLContext:
    """A listener's context: a client certificate is requested, not required, and verified where presented.

    Args:
        certificate: path of the chain, PEM, leaf first.
        key: path of the private key, PEM.
        ca: the CA certificates that clients may chain to, PEM; it must contain issuing CAs, as many devices send only
            the leaf.
        client_certificates: False asks for none.
        enrolling: a chain may end at an issuing CA.
        refused: called with the reason where a client's certificate ends the handshake, which asyncio does not report.
        password: of an encrypted key.

    Dates are left to the later check of the certificate, by the fleet's clock: the machine's may be wrong. No ALPN is
    set: a listener that speaks several protocols sets its own. Raises ``OSError`` or ``ssl.SSLError``.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    # Both are needed: OP_NO_TICKET ends tickets in TLS 1.2 (RFC 5077), num_tickets in 1.3 (RFC 8446 §4.6.1).
    context.num_tickets = 0
    context.load_cert_chain(certificate, key, password=password or _no_password)
    if client_certificates:
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(cadata=ca.decode("ascii"))
    if refused is not None:
        context.sslobject_class = _watched(refused)
    context.verify_flags |= _NO_CHECK_TIME
    if enrolling:
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _watched(refused: Callable[[str], None]) -> type[ssl.SSLObject]:
    class Watched(ssl.SSLObject):
        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except ssl.SSLCertVerificationError as error:
                refused(error.verify_message)
                raise

    return Watched


def _judged(now_ms: Callable[[], int | None]) -> tuple[type[ssl.SSLObject], type[ssl.SSLSocket]]:
    def judge(sent: Sequence[bytes]) -> None:
        now = now_ms()
        if now is None:
            return
        for der in sent:
            fault = date_fault(der, now)
            if fault:
                error = ssl.SSLCertVerificationError(1, f"certificate verify failed: {fault}")
                error.verify_message = fault
                raise error

    class JudgedObject(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            judge(_chain(self))

    class JudgedSocket(ClosingSocket):
        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            try:
                judge(_chain(self))
            except BaseException:
                self.close()
                raise

    return JudgedObject, JudgedSocket


def _chain(peer: ssl.SSLObject | ssl.SSLSocket) -> Sequence[bytes]:
    """The server's verified chain, DER, the leaf first."""
    # Public from Python 3.13 on, where it gives bytes.
    public: Callable[[], Sequence[bytes]] | None = getattr(peer, "get_verified_chain", None)
    if public is not None:
        return public()
    return [each.public_bytes(ssl._ssl.ENCODING_DER) for each in peer._sslobj.get_verified_chain()]  # type: ignore[attr-defined, union-attr]  # typeshed leaves it out


def date_fault(der: bytes, now_ms: int) -> str:
    """Why a certificate's dates do not hold at a time, in OpenSSL's words, or an empty text."""
    from cryptography import x509

    certificate = x509.load_der_x509_certificate(der)
    if now_ms < certificate.not_valid_before_utc.timestamp() * 1000:
        return "certificate is not yet valid"
    if now_ms > certificate.not_valid_after_utc.timestamp() * 1000:
        return "certificate has expired"
    return ""


def _no_password() -> bytes:
    # Without a callback OpenSSL asks on the terminal for an encrypted key's passphrase, which would hang a server.
    return b""


def load_identity(context: ssl.SSLContext, certificate: bytes, key: bytes, *, password: str | None = None) -> None:
    """Loads a chain and its key from memory. ``ssl`` reads only files: a file of mode 0600 exists during this call."""
    handle, name = tempfile.mkstemp(prefix="fleetcore-", suffix=".pem")  # mode 0600 by its promise
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(key.rstrip(b"\n") + b"\n" + certificate)
        context.load_cert_chain(name, password=password or _no_password)
    finally:
        Path(name).unlink(missing_ok=True)


def der_of(chain: bytes) -> bytes:
    """The first certificate of a PEM chain, DER; raises ``ValueError`` where there is none."""
    begin, end = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
    at = chain.find(begin)
    if at < 0:
        raise ValueError("no certificate in the chain")
    return ssl.PEM_cert_to_DER_cert(chain[at : chain.index(end, at) + len(end)].decode("ascii"))
