"""Enrolment over Secure Transport (RFC 7030, as amended by RFC 8951): enrolling with only curl and openssl.

``cacerts`` and ``csrattrs`` are public. ``simpleenroll`` takes an enrolment token, as the password of HTTP Basic, or
the connection's certificate: a claim certificate or a manufacturer's. ``simplereenroll`` takes the device's own. There
is no server-side key generation and no full CMC: a private key never leaves its device.
"""

import binascii
from base64 import b64decode, b64encode

from aiohttp import web
from attrs import evolve

from fleetcore.errors import NotAuthenticated, Unavailable
from fleetcore.interfaces.protocol import EnrollRequest
from fleetcore.model.message import Rejected, Reply
from fleetcore.wire.csr import PKCS10, as_pem
from fleetcore_http.answers import empty
from fleetcore_http.exchange import Exchange
from fleetcore_http.identity import shown_certificate
from fleetcore_http.problems import problem
from fleetcore_http.replies import reply_answer

PREFIX = "/.well-known/est/"

_CERTS_ONLY = "application/pkcs7-mime; smime-type=certs-only"

#: RFC 7030 §4.5.2: sign with ecdsa-with-SHA256, by an EC key on secp256r1; DER, base64.
_CSR_ATTRIBUTES = b64encode(
    bytes.fromhex("3021 06082a8648ce3d040302 3015 06072a8648ce3d0201 310a 06082a8648ce3d030107")
).decode()


async def ca_certificates(exchange: Exchange) -> web.StreamResponse:
    """``GET cacerts``: the CAs that devices trust, as PKCS #7 (RFC 7030 §4.1)."""
    tls = exchange.state.context.tls
    if tls is None:
        raise Unavailable("This fleet has no CA", code="not_ready", retry_after_s=60)
    return _answer(_CERTS_ONLY, _certs_only(tls.ca_bundle()))


async def csr_attributes(exchange: Exchange) -> web.StreamResponse:
    """``GET csrattrs``: the recommended key and signature of a request (RFC 7030 §4.5)."""
    del exchange
    return _answer("application/csrattrs", _CSR_ATTRIBUTES)


async def simple_enroll(exchange: Exchange) -> web.StreamResponse:
    """``POST simpleenroll`` (RFC 7030 §4.2): 200 and the certificate; 202 while it waits for an operator."""
    request = await _request(exchange)
    if request.token is None and request.certificate is None:
        return _challenge("Send an enrolment token as the password, or use a certificate that may enrol")
    reply = await exchange.state.plane.enroll(evolve(request, at_once=True))
    if reply.error is not None and reply.error.get("code") == "token_spent":
        return _challenge("The enrolment token is used, expired or unknown", code="token_spent")
    return _enrolled(reply)


async def simple_reenroll(exchange: Exchange) -> web.StreamResponse:
    """``POST simplereenroll`` (RFC 7030 §4.2.2): a new certificate for the same subject, authorised by the old one."""
    request = await _request(exchange)
    if request.certificate is None:
        raise NotAuthenticated("Use the certificate that is to be renewed")
    reply = await exchange.state.plane.enroll(evolve(request, token=None, renewal=True))
    if reply.error is not None and reply.error.get("code") == "not_your_device":
        # RFC 7030 §4.2.2: subject and subject alternative name equal those of the current certificate.
        refusal = Rejected(code="csr_invalid", reason="The request names another subject than the certificate")
        return problem(refusal, status=400)
    return _enrolled(reply)


async def _request(exchange: Exchange) -> EnrollRequest:
    body = await exchange.body()
    exchange.headers.check_media_type((PKCS10,))
    return EnrollRequest(
        csr=as_pem(body),
        token=_password(exchange),
        certificate=shown_certificate(exchange.connection, exchange.headers),
        source=exchange.connection.peer,
        protocol=exchange.state.context.name,
    )


def _password(exchange: Exchange) -> str | None:
    """The password of HTTP Basic (RFC 7617); the user name is ignored."""
    coded = exchange.headers.credential("basic")
    if coded is None:
        return None
    try:
        _, colon, password = b64decode(coded, validate=True).decode().partition(":")
    except (ValueError, binascii.Error):
        colon, password = "", ""
    if not colon:
        raise NotAuthenticated("Authorization must be user:password in base64")
    return password


def _enrolled(reply: Reply) -> web.StreamResponse:
    certificate = reply.body.get("certificate") if reply.body is not None else None
    if reply.status != 201 or not isinstance(certificate, str):
        return reply_answer(reply)
    # RFC 7030 §4.2.3: only the issued certificate; cacerts has the CAs.
    return _answer(_CERTS_ONLY, _certs_only(certificate.encode()))


def _challenge(why: str, *, code: str = "not_authenticated") -> web.Response:
    answer = problem(Rejected(code=code, reason=why), status=401)
    answer.headers["WWW-Authenticate"] = 'Basic realm="fleetcore enrolment"'
    return answer


def _certs_only(pem: bytes) -> str:
    """Certificates as degenerate PKCS #7, base64 in lines (RFC 7030 §4.1.3)."""
    from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
    from cryptography.x509 import load_pem_x509_certificates

    coded = b64encode(pkcs7.serialize_certificates(load_pem_x509_certificates(pem), Encoding.DER)).decode()
    return "".join(f"{coded[at : at + 76]}\r\n" for at in range(0, len(coded), 76))


def _answer(media_type: str, text: str) -> web.Response:
    answer = empty(200)
    answer.headers["Content-Type"] = media_type
    answer.headers["Content-Transfer-Encoding"] = "base64"
    answer.headers["Cache-Control"] = "no-store"
    answer.body = text.encode()
    return answer
