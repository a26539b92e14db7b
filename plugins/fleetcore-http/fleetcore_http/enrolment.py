"""Enrolling: a certificate request in, a chain out, for devices that have no certificate yet (WIRE.md §8)."""

from aiohttp import web

from fleetcore.errors import Refused
from fleetcore.interfaces.protocol import EnrollRequest
from fleetcore.wire.strict_json import loads
from fleetcore_http.csr import PKCS10, as_pem
from fleetcore_http.exchange import Exchange
from fleetcore_http.identity import shown_certificate
from fleetcore_http.replies import reply_answer


async def enroll(exchange: Exchange) -> web.StreamResponse:
    """``POST /enroll``: 201, 202 while pending, else a problem."""
    body = await exchange.body()
    reply = await exchange.site.plane.enroll(_request(exchange, body))
    return reply_answer(exchange.site.plane, reply)


def _request(exchange: Exchange, body: bytes) -> EnrollRequest:
    media_type = exchange.media_type()
    token = _bearer(exchange)
    source, certificate = exchange.connection.peer, shown_certificate(exchange.connection, exchange.request)
    if media_type == PKCS10 or (media_type is None and not body.lstrip().startswith(b"{")):
        return EnrollRequest(csr=as_pem(body), token=token, certificate=certificate, source=source)
    if media_type not in {None, "application/json"}:
        raise Refused("Enrolling takes application/pkcs10 or application/json", code="media_type_unsupported")
    members = loads(body, depth=exchange.site.context.limits.json_depth)
    if not isinstance(members, dict):
        raise Refused("The body is no JSON object")
    csr, shown, parameters = members.get("csr", ""), members.get("token"), members.get("parameters", {})
    ownership = members.get("ownership_token")
    if ownership is not None and not isinstance(ownership, str):
        raise Refused("ownership_token is no text")
    if not isinstance(csr, str) or not csr.isascii() or not (csr or ownership):
        raise Refused("csr is not the PEM text of a certificate request")
    if shown is not None and not isinstance(shown, str):
        raise Refused("token is no text")
    if not isinstance(parameters, dict):
        raise Refused("parameters is no object")
    return EnrollRequest(
        csr=csr.encode("ascii"),
        token=shown or token,
        certificate=certificate,
        ownership=ownership,
        parameters=parameters,
        source=source,
    )


def _bearer(exchange: Exchange) -> str | None:
    scheme, _, token = exchange.request.headers.get("Authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None
