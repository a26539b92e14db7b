"""The opening handshake: reads the request and its credential, and refuses it.

A refusal is an HTTP answer with a problem document (RFC 9457). A browser hides that from its script: if the token came
as a subprotocol the handshake is completed instead, and the close code gives the reason (4401, 4403).
"""

from collections.abc import Collection, Sequence

from attrs import field, frozen
from websockets.datastructures import Headers as WireHeaders
from websockets.exceptions import InvalidHandshake
from websockets.headers import parse_subprotocol
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from fleetcore.errors import CODES, FleetError, NotAuthenticated, NotFound, Refused
from fleetcore.model.credential import (
    DEVICE_TOKEN,
    ENROLLMENT_TOKEN,
    CertificateCredential,
    Credential,
    TokenCredential,
)
from fleetcore.wire import browser
from fleetcore.wire.headers import Headers
from fleetcore.wire.proxies import client_cert
from fleetcore.wire.replies import problem, rejection
from fleetcore.wire.strict_json import dumps
from fleetcore_websocket.frames import FORMS, Form

#: The path of the WebSocket.
PATH = "/device/v1/ws"
#: The maximum header section. A certificate is in TLS and a token has 120 bytes, so no device comes close.
HEAD_BYTES = 16_384


@frozen(kw_only=True)
class Opening:
    """The content of a valid request.

    Attributes:
        credential: does not contain enrolment tokens.
        enrolment: an enrolment token, which is checked at its use.
        browser: the token came as a subprotocol.
    """

    form: Form
    credential: Credential | None
    enrolment: str | None = field(default=None, repr=False)
    browser: bool


def select(_protocol: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """The first of the client's subprotocols that is supported (RFC 6455 §4.1: they are in order of preference)."""
    return next((name for name in offered if name in FORMS), None)


def judge(request: Request, certificate: bytes | None, origins: Collection[str], *, proxied: bool = False) -> Opening:
    """Checks a request; the library checks whether it is a WebSocket request.

    The connection's certificate takes precedence over a token, as over HTTP. A trusted proxy's certificate
    (``proxied``) is not a device's; its ``Client-Cert`` is.

    Raises:
        NotFound: nothing is served at its path.
        NotAuthorised: its ``Origin`` is not configured.
        NotAuthenticated: it has no credential, or only invalid ones.
        Refused: it offers no supported subprotocol, or repeats a header that may occur once.
    """
    if request.path.partition("?")[0] != PATH:
        raise NotFound(f"Devices connect to {PATH}", code="operation_unknown")
    headers = Headers.of(
        (name.encode("latin-1", "replace"), value.encode("latin-1", "replace"))
        for name, value in request.headers.raw_items()
    )
    browser.check_origin(request.headers.get_all("Origin"), origins, "protocols.websocket")
    try:
        offered = [
            name for value in request.headers.get_all("Sec-WebSocket-Protocol") for name in parse_subprotocol(value)
        ]
    except InvalidHandshake as error:
        raise Refused("Sec-WebSocket-Protocol cannot be read", code="protocol_violation") from error
    form = next((FORMS[name] for name in offered if name in FORMS), None)
    if form is None:
        raise Refused(f"Offer one of the subprotocols {', '.join(FORMS)}", code="protocol_violation")
    tokens = browser.tokens(offered)
    if proxied:
        shown_by_proxy = headers.get("client-cert")
        certificate = None if shown_by_proxy is None else client_cert(shown_by_proxy)
    if certificate is not None:
        return Opening(form=form, credential=CertificateCredential(certificate), browser=False)
    bearer = headers.credential("bearer")
    if len(tokens) + (bearer is not None) > 1:
        raise NotAuthenticated("More than one token was sent")
    token = tokens[0] if tokens else bearer
    if token is not None and token.startswith(ENROLLMENT_TOKEN):
        return Opening(form=form, credential=None, enrolment=token, browser=bool(tokens))
    if token is None or not token.startswith(DEVICE_TOKEN):
        raise NotAuthenticated("Neither a client certificate nor a device or enrolment token was sent")
    return Opening(form=form, credential=TokenCredential(token), browser=bool(tokens))


def refusal(wire: ServerProtocol, error: FleetError) -> Response:
    """An error as an HTTP answer."""
    rejected = rejection(error)
    status = CODES[rejected.code].http
    return _problem(wire, status if status >= 400 else 403, dumps(problem(rejected)))


def explained(wire: ServerProtocol, response: Response) -> Response:
    """The library's plain-text refusal as a problem document."""
    text = (response.body or b"").decode("utf-8", "replace").partition("\n")[0]
    rejected = rejection(Refused(text, code="protocol_violation"))
    answer = _problem(wire, response.status_code, dumps({**problem(rejected), "status": response.status_code}))
    for name in ("Allow", "Upgrade"):
        if name in response.headers:
            answer.headers[name] = response.headers[name]
    return answer


def _problem(wire: ServerProtocol, status: int, body: bytes) -> Response:
    plain = wire.reject(status, "")
    headers = WireHeaders(
        [
            ("Date", plain.headers["Date"]),
            ("Connection", "close"),
            ("Content-Length", str(len(body))),
            ("Content-Type", "application/problem+json"),
            ("Cache-Control", "no-store"),
        ]
    )
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="fleetcore"'
    return Response(plain.status_code, plain.reason_phrase, headers, body)
