"""What each route does: a request becomes a message, a read or a wait on the plane, and the outcome an answer."""

import re

from aiohttp import web
from attrs import evolve
from msgspec.structs import replace

from fleetcore.errors import CODES, NotAuthenticated, NotAuthorised, Refused, VersionConflict
from fleetcore.interfaces.protocol import Awaited
from fleetcore.model.message import Accepted, Dropped, Inbound, Operation
from fleetcore.wire.strict_json import dumps
from fleetcore_http.answers import accepted, empty, json_answer, matches, quoted
from fleetcore_http.csr import PKCS10, as_pem
from fleetcore_http.exchange import MAX_WAIT_S, Exchange
from fleetcore_http.identity import identify_if_shown
from fleetcore_http.problems import problem
from fleetcore_http.replies import reply_answer

#: An entity tag of ours: ``"d12.r40"``, or the reported version alone.
_REPORTED_VERSION = re.compile(r'"(?:d\d{1,15}\.)?r?(\d{1,15})"', re.ASCII)

#: WIRE.md §8. Without a declared type the bytes are looked at.
_PATCH_TYPES = frozenset({None, "application/merge-patch+json", "application/json", "application/cbor"})


async def uplink(exchange: Exchange, operation: Operation) -> web.StreamResponse:
    """A message to be committed: answered after the commit."""
    site = exchange.site
    message = await exchange.message(operation)
    outcome = await site.plane.submit(exchange.who, message)
    if isinstance(outcome, Accepted):
        return accepted(outcome)
    if isinstance(outcome, Dropped):
        return empty()
    return problem(site.plane, outcome) if message.id is None else problem(site.plane, outcome, id=message.id)


async def call(exchange: Exchange, operation: Operation) -> web.StreamResponse:
    """A message that is answered with content."""
    plane = exchange.site.plane
    return reply_answer(plane, await plane.call(exchange.who, await exchange.message(operation)))


async def renew(exchange: Exchange, operation: Operation) -> web.StreamResponse:
    """``POST /certificates/renew``: as enrolling, ``application/pkcs10`` or ``{"csr": PEM}``."""
    plane = exchange.site.plane
    message = await exchange.message(operation)
    if message.content_type == PKCS10:
        members = dumps({"csr": as_pem(message.payload).decode("ascii")})
        message = replace(message, payload=members, content_type="application/json")
    return reply_answer(plane, await plane.call(exchange.who, message))


async def report_twin(exchange: Exchange, operation: Operation) -> web.StreamResponse:
    """``PATCH /twin/reported`` with If-Match: 204 and the new ETag, or 412."""
    plane = exchange.site.plane
    if exchange.media_type() not in _PATCH_TYPES:
        raise Refused("A twin takes application/merge-patch+json, json or cbor", code="media_type_unsupported")
    message = await exchange.message(operation, if_version=_if_match(exchange))
    reply = await plane.call(exchange.who, message)
    if reply.error is None and reply.etag is None and reply.version is not None:
        # The reply knows the reported version alone; the tag of the twin names both (WIRE.md §5).
        desired = (await plane.pending(exchange.who, exchange.subject)).get("desired", 0)
        reply = evolve(reply, etag=f"d{desired}.r{reply.version}")
    return reply_answer(plane, reply)


def _if_match(exchange: Exchange) -> int | None:
    """The reported version that must be the current one. A tag that is not of ours cannot match (RFC 9110 §13.1.1)."""
    header = exchange.request.headers.get("If-Match")
    if header is None or header.strip() == "*":
        return None
    match = _REPORTED_VERSION.fullmatch(header.strip())
    if match is None:
        raise VersionConflict("If-Match names no version of this twin")
    return int(match.group(1))


async def read_twin(exchange: Exchange, operation: Operation) -> web.StreamResponse:
    """``GET /twin``: 200 and an ETag, or 304 where If-None-Match names it."""
    plane = exchange.site.plane
    reply = await plane.call(exchange.who, Inbound(operation=operation, subject=exchange.subject, payload=b""))
    known = exchange.request.headers.get("If-None-Match")
    if known is not None and reply.error is None and reply.etag is not None and matches(known, quoted(reply.etag)):
        return web.Response(status=304, headers={"ETag": quoted(reply.etag), "Server": "fleetcore"})
    return reply_answer(plane, reply)


async def await_downlink(exchange: Exchange, what: Awaited) -> web.StreamResponse:
    """A long poll: 200 as soon as something waits, 204 after ``wait`` seconds."""
    wait_s, since = exchange.integer("wait", most=MAX_WAIT_S), exchange.integer("since")
    session = exchange.who
    waiting = exchange.site.plane.wait(session, exchange.subject, what, after=since, timeout_s=float(wait_s))
    body = await exchange.connection.poll(session, waiting)
    if session.ended is not None:  # lost its rights while it waited, behind a proxy whose connection stays
        raise NotAuthorised("The session has ended", code=session.ended if session.ended in CODES else None)
    return empty() if body is None else json_answer(200, body)


async def tell_time(exchange: Exchange, operation: Operation) -> web.StreamResponse:
    """``GET /time?client=ms``: what a device needs to set its clock."""
    plane = exchange.site.plane
    payload = dumps({"client": exchange.integer("client")}) if "client" in exchange.query else b""
    media_type = "application/json" if payload else None
    message = Inbound(operation=operation, subject=exchange.subject, payload=payload, content_type=media_type)
    return reply_answer(plane, await plane.call(exchange.who, message))


async def ca_bundle(exchange: Exchange, operation: Operation) -> web.StreamResponse:
    """``GET /ca``: the bundle that devices trust. It is public, so that a device can ask before it is enrolled."""
    plane = exchange.site.plane
    session = await identify_if_shown(exchange.connection, exchange.request)
    if session is not None:
        message = Inbound(operation=operation, subject=session.identity, payload=b"")
        return reply_answer(plane, await plane.call(session, message))
    tls = exchange.site.context.tls
    if tls is None:
        raise NotAuthenticated("Neither a client certificate nor a device token was shown")
    return json_answer(200, {"ca": tls.ca_bundle().decode("ascii")})


async def discover(exchange: Exchange) -> web.StreamResponse:
    """``GET /device/v1/``: the limits, for anybody; and who the credential says you are, where one is shown."""
    session = await identify_if_shown(exchange.connection, exchange.request)
    exchange.session = session
    limits = exchange.site.context.limits
    body: dict[str, object] = {
        "fleet": exchange.site.context.fleet,
        "time_ms": exchange.site.clock.now_ms(),
        "limits": {
            "message_bytes": limits.message_bytes,
            "json_depth": limits.json_depth,
            "twin_bytes": limits.twin_bytes,
            "twin_keys": limits.twin_keys,
            "metrics": limits.metrics,
            "wait_s": MAX_WAIT_S,
        },
    }
    if session is not None:
        body["device"] = session.identity
    return json_answer(200, body)
