"""The handler of each route: a request becomes a message, a read or a wait on the plane, and the outcome an answer."""

import re

from aiohttp import web
from msgspec.structs import replace

from fleetcore.errors import CODES, NotAuthenticated, NotAuthorised, VersionConflict
from fleetcore.model.message import Accepted, Dropped, Inbound, MessageType
from fleetcore.wire import messages
from fleetcore.wire.csr import PKCS10, as_pem
from fleetcore.wire.strict_json import dumps
from fleetcore_http.answers import accepted, empty, json_answer, matches, quoted
from fleetcore_http.exchange import MAX_WAIT_S, Exchange
from fleetcore_http.identity import identify_if_shown
from fleetcore_http.problems import problem
from fleetcore_http.replies import reply_answer

#: Our entity tags: ``"d12.r40"``, or the reported version alone.
_REPORTED_VERSION = re.compile(r'"(?:d\d{1,15}\.)?r?(\d{1,15})"', re.ASCII)


async def uplink(exchange: Exchange, row: MessageType) -> web.StreamResponse:
    """A message to be committed: answered after the commit."""
    if row.media_types:
        exchange.headers.check_media_type(row.media_types)
    message = await exchange.message(row, if_version=_if_match(exchange) if row.checks_version else None)
    outcome = await exchange.state.ingest.submit(exchange.who, message)
    if isinstance(outcome, Accepted):
        return accepted(outcome)
    if isinstance(outcome, Dropped):
        return empty()
    return problem(outcome) if message.id is None else problem(outcome, id=message.id)


async def call(exchange: Exchange, row: MessageType) -> web.StreamResponse:
    """A message that is answered with content; 304 if If-None-Match matches the answer."""
    plane = exchange.state.plane
    message = await exchange.message(row) if "POST" in row.methods else _read(exchange, row)
    reply = await plane.call(exchange.who, message)
    known = exchange.headers.get("if-none-match")
    if known is not None and reply.error is None and reply.etag is not None and matches(known, quoted(reply.etag)):
        return web.Response(status=304, headers={"ETag": quoted(reply.etag), "Server": "fleetcore"})
    return reply_answer(reply)


def _read(exchange: Exchange, row: MessageType) -> Inbound:
    """A GET as its message: its query parameters are the members of the body."""
    body = {name: exchange.integer(name) for name in row.body.__struct_fields__ if name in exchange.query}
    if not body:
        return Inbound(type=row, subject=exchange.subject, payload=b"")
    return Inbound(type=row, subject=exchange.subject, payload=dumps(body), content_type="application/json")


async def renew(exchange: Exchange) -> web.StreamResponse:
    """``POST /certificates/renew``: like enrolling, ``application/pkcs10`` or ``{"csr": PEM}``."""
    plane = exchange.state.plane
    message = await exchange.message(messages.CERTIFICATE_RENEW)
    if message.content_type == PKCS10:
        members = dumps({"csr": as_pem(message.payload).decode("ascii")})
        message = replace(message, payload=members, content_type="application/json")
    return reply_answer(await plane.call(exchange.who, message))


def _if_match(exchange: Exchange) -> int | None:
    """The reported version that must be the current one. A foreign tag matches nothing (RFC 9110 §13.1.1)."""
    header = exchange.headers.get("if-match")
    if header is None or header.strip() == "*":
        return None
    match = _REPORTED_VERSION.fullmatch(header.strip())
    if match is None:
        raise VersionConflict("If-Match must name a version of this twin")
    return int(match.group(1))


async def await_downlink(exchange: Exchange, row: MessageType) -> web.StreamResponse:
    """A long poll: 200 as soon as an item waits, 204 after ``wait`` seconds."""
    wait_s, since = exchange.integer("wait", most=MAX_WAIT_S), exchange.integer("since")
    session = exchange.who
    waiting = exchange.state.plane.wait(session, exchange.subject, row, after=since, timeout_s=float(wait_s))
    body = await exchange.connection.poll(session, waiting)
    if session.ended is not None:  # it lost its rights meanwhile, behind a proxy whose connection stays
        raise NotAuthorised("The session has ended", code=session.ended if session.ended in CODES else None)
    return empty() if body is None else json_answer(200, body)


async def ca_bundle(exchange: Exchange) -> web.StreamResponse:
    """``GET /ca``: the bundle that devices trust. It is public, so that a device can ask before it is enrolled."""
    plane = exchange.state.plane
    session = await identify_if_shown(exchange.connection, exchange.headers)
    if session is not None:
        message = Inbound(type=messages.CA_GET, subject=session.identity, payload=b"")
        return reply_answer(await plane.call(session, message))
    tls = exchange.state.context.tls
    if tls is None:
        raise NotAuthenticated("Neither a client certificate nor a device token was sent")
    return json_answer(200, {"ca": tls.ca_bundle().decode("ascii")})


async def discover(exchange: Exchange) -> web.StreamResponse:
    """``GET /device/v1/``: the limits, public; and the identity of the credential, if one is sent."""
    session = await identify_if_shown(exchange.connection, exchange.headers)
    exchange.session = session
    device = None if session is None else session.identity
    return json_answer(200, exchange.state.context.discovery(device, wait_s=MAX_WAIT_S))
