"""Enrolling: takes a certificate request and returns a chain, for devices without a certificate (wire.md §11)."""

from aiohttp import web

from fleetcore.interfaces.protocol import EnrollRequest
from fleetcore.model.message import Rejected
from fleetcore.wire import messages
from fleetcore.wire.bodies import read_body
from fleetcore.wire.csr import PKCS10, as_pem
from fleetcore_http.exchange import Exchange
from fleetcore_http.identity import shown_certificate
from fleetcore_http.problems import problem
from fleetcore_http.replies import reply_answer


async def enroll(exchange: Exchange) -> web.StreamResponse:
    """``POST /enroll``: 201, 202 while pending, else a problem."""
    body = await exchange.body()
    request = _request(exchange, body)
    if isinstance(request, Rejected):
        exchange.note_refused(request)
        return problem(request)
    return reply_answer(await exchange.state.plane.enroll(request))


def _request(exchange: Exchange, body: bytes) -> EnrollRequest | Rejected:
    media_type = exchange.media_type()
    token = exchange.headers.credential("bearer")
    protocol = exchange.state.context.name
    source, certificate = exchange.connection.peer, shown_certificate(exchange.connection, exchange.headers)
    if media_type == PKCS10 or (media_type is None and not body.lstrip().startswith(b"{")):
        return EnrollRequest(csr=as_pem(body), token=token, certificate=certificate, source=source, protocol=protocol)
    exchange.headers.check_media_type((PKCS10, "application/json"))
    depth = exchange.state.context.limits.json_depth
    members = read_body(messages.ENROLL, body, media_type, depth)
    if isinstance(members, Rejected):
        return members
    return EnrollRequest.of(
        members, token=members.token or token, certificate=certificate, source=source, protocol=protocol
    )
