"""OpenSSL contexts for both sides of DTLS: the same rules as for TLS (:mod:`fleetcore.wire.tls`).

DTLS 1.2 only, certificates of P-256 or better and ephemeral keys, no renegotiation, and no resumption: neither tickets
nor a session cache, so every handshake sends the certificate or proves the key. Pre-shared keys have separate contexts:
the ciphers of constrained devices are too weak for use with certificates.
"""

import contextlib
from collections.abc import Callable
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL, crypto

from fleetcore.errors import ConfigError
from fleetcore_coap.psk import ask_for_keys, show_key

#: DTLS1_2_VERSION of OpenSSL (prov_ssl.h), for which pyOpenSSL has no name.
_DTLS_1_2 = 0xFEFD
#: Ephemeral keys and authenticated encryption; CCM_8 is the suite of constrained devices (RFC 7252 §9.1.3.3).
_CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE-ECDSA-AES128-CCM8:ECDHE-ECDSA-AES128-CCM:!aNULL"
#: With a pre-shared key, those with ephemeral keys first. Every device with a key has CCM_8 (RFC 7252 §9.1.3.1).
#: OpenSSL counts it as 64 bits, by the length of its tag, and only allows it at its lowest security level. That level
#: admits nothing else: the suites are listed here, and there are no certificates.
_KEY_CIPHERS = (
    b"ECDHE-PSK-CHACHA20-POLY1305:PSK-AES128-GCM-SHA256:PSK-AES256-GCM-SHA384:PSK-CHACHA20-POLY1305"
    b":PSK-AES128-CCM:PSK-AES256-CCM"
)
_SHORT_KEY_CIPHERS = b":PSK-AES128-CCM8:PSK-AES256-CCM8:@SECLEVEL=0"
#: X509_V_FLAG_NO_CHECK_TIME (x509_vfy.h): dates are checked after the handshake, because enrolling may use an expired
#: certificate.
_NO_CHECK_TIME = 0x200000


#: OpenSSL's texts for faults of a client's chain (x509_txt.c), which pyOpenSSL reports only by number.
_VERIFY = {
    2: "unable to get issuer certificate",
    7: "certificate signature failure",
    18: "self-signed certificate",
    19: "self-signed certificate in certificate chain",
    20: "unable to get local issuer certificate",
    21: "unable to verify the first certificate",
    22: "certificate chain too long",
    24: "invalid CA certificate",
    26: "unsuitable certificate purpose",
    66: "EE certificate key too weak",
    67: "CA certificate key too weak",
}


def server_context(
    chain: bytes, key: bytes, trusted: bytes, refused: Callable[[str], None] = lambda _why: None
) -> SSL.Context:
    """The endpoint's: a client certificate is requested, not required, and verified against ``trusted`` if sent.

    All are PEM, the chain leaf first. ``refused`` is called with the reason when a client's certificate ends a
    handshake. Raises :class:`ConfigError` for unusable files.
    """

    def judged(_connection: SSL.Connection, _certificate: crypto.X509, error: int, _depth: int, ok: int) -> bool:
        if not ok:
            refused(_VERIFY.get(error, f"verification error {error}"))
        return bool(ok)

    context = _context(SSL.DTLS_SERVER_METHOD, _CIPHERS)
    try:
        _identify(context, chain, key)
        _trust(context, trusted)
    except (ValueError, TypeError, SSL.Error, crypto.Error) as error:
        raise ConfigError(f"The server's certificate cannot be used for DTLS: {error}") from error
    # As for TLS: a chain may end at an issuing CA, because many devices send only the leaf.
    store = context.get_cert_store()
    assert store is not None
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN | _NO_CHECK_TIME)
    context.set_options(SSL.OP_CIPHER_SERVER_PREFERENCE)
    context.set_verify(SSL.VERIFY_PEER, judged)
    return context


def client_context(ca: bytes | None, certificate: bytes | None, key: bytes | None) -> SSL.Context:
    """A client's, which trusts only ``ca``; :func:`names` checks the name in the server's certificate."""
    context = _context(SSL.DTLS_CLIENT_METHOD, _CIPHERS)
    if ca is not None:
        _trust(context, ca)
    if certificate is not None and key is not None:
        _identify(context, certificate, key)
    context.set_verify(SSL.VERIFY_PEER, _as_openssl_says)
    return context


def key_server_context(key_of: Callable[[bytes], bytes]) -> SSL.Context:
    """The endpoint's for peers with a pre-shared key: ``key_of(identity)`` returns the peer's key.

    Raises :class:`ConfigError` if the installed OpenSSL does not support it.
    """
    context = _context(SSL.DTLS_SERVER_METHOD, _KEY_CIPHERS + _SHORT_KEY_CIPHERS)
    context.set_options(SSL.OP_CIPHER_SERVER_PREFERENCE)
    ask_for_keys(context, key_of)
    return context


def key_client_context(identity: str, key: bytes) -> SSL.Context:
    """A client's with a pre-shared key, which also authenticates the server; raises as :func:`key_server_context`."""
    context = _context(SSL.DTLS_CLIENT_METHOD, _KEY_CIPHERS)
    show_key(context, identity.encode(), key)
    return context


def _context(method: int, ciphers: bytes) -> SSL.Context:
    context = SSL.Context(method)
    context.set_min_proto_version(_DTLS_1_2)
    context.set_max_proto_version(_DTLS_1_2)
    context.set_cipher_list(ciphers)
    context.set_options(SSL.OP_NO_QUERY_MTU | SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    return context


def _identify(context: SSL.Context, chain: bytes, key: bytes) -> None:
    leaf, *others = x509.load_pem_x509_certificates(chain)
    context.use_certificate(leaf)
    for certificate in others:
        context.add_extra_chain_cert(certificate)
    private = load_pem_private_key(key, None)
    if not isinstance(private, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey):
        raise TypeError("the key is of a kind that cannot sign handshakes")
    context.use_privatekey(private)
    context.check_privatekey()


def _trust(context: SSL.Context, bundle: bytes) -> None:
    store = context.get_cert_store()
    assert store is not None
    for certificate in x509.load_pem_x509_certificates(bundle):
        with contextlib.suppress(crypto.Error):  # OpenSSL 1.1 refused a duplicate certificate
            store.add_cert(crypto.X509.from_cryptography(certificate))


def _as_openssl_says(_connection: SSL.Connection, _certificate: crypto.X509, _error: int, _depth: int, ok: int) -> bool:
    return bool(ok)


def names(der: bytes, host: str) -> bool:
    """Whether a server's certificate is for ``host``: by a DNS name or an address in its SANs (RFC 9525 §6)."""
    try:
        alternatives = (
            x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        )
    except (x509.ExtensionNotFound, ValueError):
        return False
    try:
        return ip_address(host) in alternatives.get_values_for_type(x509.IPAddress)
    except ValueError:
        own = host.lower().rstrip(".")
        parent = own.partition(".")[2]
        wanted = {own, f"*.{parent}"} if "." in parent else {own}
        return not wanted.isdisjoint(name.lower() for name in alternatives.get_values_for_type(x509.DNSName))
