"""The handler of each path: a request becomes a message, a read or a wait on the plane, and the outcome an answer."""

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

from msgspec.structs import replace

from fleetcore.errors import NotAuthenticated, NotFound, VersionConflict
from fleetcore.interfaces.protocol import EnrollRequest, Session
from fleetcore.model.message import Direction, Dropped, Inbound, MessageType, Outcome, Rejected, Reply
from fleetcore.wire import messages
from fleetcore.wire.bodies import read_body
from fleetcore.wire.csr import as_pem
from fleetcore.wire.headers import unsupported
from fleetcore.wire.replies import partial
from fleetcore.wire.strict_json import dumps
from fleetcore_coap import problems
from fleetcore_coap.blocks import OutOfRange, block_options, cut
from fleetcore_coap.codec import BAD_OPTION, CHANGED, CONTENT, CREATED, VALID, Kind, Option, Packet, options, uint
from fleetcore_coap.etags import packed, reported_version
from fleetcore_coap.formats import LINK_FORMAT, OCTET_STREAM
from fleetcore_coap.request import Request, empty
from fleetcore_coap.routes import links

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PKCS10 = "application/pkcs10"
#: Statuses of calls with an effect, as CoAP codes; 202 waits for an operator (wire.md §1).
_CODES = {200: CHANGED, 201: CREATED, 204: CHANGED}


#: The most common answer.
_DONE = empty(CHANGED)


async def uplink(request: Request) -> Packet:
    """A message to be committed: answered after the commit."""
    row, declared = request.row, request.media_type()
    if row.media_types and declared is not None and declared not in row.media_types:
        raise unsupported(declared, row.media_types)
    target = await _target(request)
    version = _if_match(request) if row.checks_version else None
    outcome = await request.peer.deliver(request.who, request.inbound(target=target, if_version=version))
    return answered(request, outcome)


def answered(request: Request, outcome: Outcome) -> Packet:
    """The outcome of a message, as an answer."""
    if isinstance(outcome, Rejected):
        return problems.problem(outcome)
    if isinstance(outcome, Dropped):
        return empty(CHANGED)
    if outcome.refused:
        return request.content(partial(outcome), code=CHANGED)
    if outcome.late:
        return request.content({"late": True}, code=CHANGED)
    return _DONE if outcome.etag is None else empty(CHANGED, (Option.ETAG, packed(outcome.etag)))


async def _target(request: Request) -> str | None:
    """The id in the path; for a command in the short form the id of its sequence number."""
    target = request.match.target
    if target is None or not request.match.sequence:
        return target
    known = request.peer.sequences
    if target not in known:
        waiting = await request.peer.state.plane.wait(request.who, request.subject, messages.COMMAND)
        request.peer.learn_sequences(waiting or {})
    if target not in known:
        raise NotFound("No unfinished command has this sequence number", code="command_unknown")
    return known[target]


def _if_match(request: Request) -> int | None:
    """The reported version that must be the current one. A foreign tag matches nothing."""
    tags = list(request.packet.all(Option.IF_MATCH))
    if not tags or b"" in tags:
        return None
    version = reported_version(tags[0]) if len(tags) == 1 else None
    if version is None:
        raise VersionConflict("If-Match must name a version of this twin")
    return version


async def call(request: Request) -> Packet:
    """A message that is answered with content; 2.03 if an ETag matches the answer."""
    reads = "GET" in request.row.coap_method
    message = _read(request) if reads else request.inbound(target=request.match.target)
    reply = await request.peer.state.plane.call(request.who, message)
    tag = None if reply.etag is None else packed(reply.etag)
    if reply.error is None and tag is not None and tag in request.packet.all(Option.ETAG):
        return empty(VALID, (Option.ETAG, tag))
    answer = replied(request, reply, reads=reads)
    if request.row is messages.TIME and answer.code == CONTENT:
        return replace(answer, options=options([*answer.options, (Option.MAX_AGE, b"")]))
    return answer


def replied(request: Request, reply: Reply, *, reads: bool = False) -> Packet:
    """A plane's reply as an answer."""
    if reply.error is not None:
        return problems.answer(reply.error)
    if reply.status == 202:
        return problems.answer({"code": "enrollment_pending", "status": 202, **(reply.body or {})})
    code = CONTENT if reads else _CODES.get(reply.status, CHANGED)
    if reply.body is None:
        return empty(code)
    return request.content(reply.body, code=code, etag=reply.etag)


def _read(request: Request) -> Inbound:
    """A GET as its message: its query parameters are the members of the body."""
    members = {name: request.integer(name) for name in request.row.body.__struct_fields__}
    body = {name: value for name, value in members.items() if value is not None}
    if not body:
        return Inbound(type=request.row, subject=request.subject, payload=b"")
    return Inbound(type=request.row, subject=request.subject, payload=dumps(body), content_type="application/json")


async def waiting(request: Request) -> Packet:
    """The waiting items now; also observes them if requested."""
    observe = request.packet.uint(Option.OBSERVE)
    session, subject, row = request.who, request.subject, request.row
    peer = request.peer
    if observe == 1:
        peer.observations.end(request.packet.token)
    body = await state(peer.state.plane.wait, session, subject, row, request.integer("since") or 0)
    if row is messages.COMMAND:
        peer.learn_sequences(body)
    answer = request.content(body)
    if observe != 0 or row is messages.INBOX:
        return answer
    observation = peer.observe(request)
    if observation is None:
        return answer
    return replace(answer, options=options([*answer.options, (Option.OBSERVE, uint(observation.next()))]))


async def state(
    wait: Callable[..., Awaitable[Mapping[str, object] | None]],
    session: Session,
    subject: str,
    row: MessageType,
    since: int,
) -> Mapping[str, object]:
    """The body of an observable state, even without items: a state is never absent."""
    found = await wait(session, subject, row, after=since)
    if found is not None:
        return found
    if row is messages.TWIN_DESIRED:
        return {"version": since, "since": since, "patch": {}}
    if row is messages.COMMAND:
        return {"commands": [], "more": False}
    return {"offer": None} if row is messages.FIRMWARE else {}


async def enroll(request: Request) -> Packet:
    """``POST /enroll``: 2.01, 5.03 with Max-Age while pending, else a problem."""
    peer, declared = request.peer, request.media_type()
    source, certificate, protocol = peer.name, peer.certificate, peer.state.context.name
    if declared == _PKCS10 or (declared is None and request.body[:1] == b"\x30"):
        made = EnrollRequest(csr=as_pem(request.body), certificate=certificate, source=source, protocol=protocol)
    else:
        members = read_body(messages.ENROLL, request.body, declared, peer.state.context.limits.json_depth)
        if isinstance(members, Rejected):
            request.note_refused(members)
            return problems.problem(members)
        made = EnrollRequest.of(members, token=members.token, certificate=certificate, source=source, protocol=protocol)
    return replied(request, await peer.state.plane.enroll(made))


async def renew(request: Request) -> Packet:
    """``POST /certificates/renew``: like enrolling, PKCS #10 or ``{"csr": PEM}``."""
    message = request.inbound()
    if message.content_type == _PKCS10:
        members = dumps({"csr": as_pem(message.payload).decode("ascii")})
        message = replace(message, payload=members, content_type="application/json")
    return replied(request, await request.peer.state.plane.call(request.who, message))


async def ca_bundle(request: Request) -> Packet:
    """``GET /ca``: the bundle that devices trust. It is public, so that a device can ask before it is enrolled."""
    tls = request.peer.state.context.tls
    if request.session is not None:
        message = Inbound(type=messages.CA_GET, subject=request.session.identity, payload=b"")
        return replied(request, await request.peer.state.plane.call(request.session, message), reads=True)
    if tls is None:
        raise NotAuthenticated("No client certificate was sent")
    return request.content({"ca": tls.ca_bundle().decode("ascii")})


async def artifact(request: Request) -> Packet:
    """``GET /artifacts/{sha256}``: one block of it, from any place; the ETag is the digest's first 8 bytes."""
    sha256 = (request.match.target or "").lower()
    if _SHA256.fullmatch(sha256) is None:
        raise NotFound("This is not a SHA-256 digest", code="artifact_unknown")
    reader = await request.peer.state.plane.open_artifact(request.who, request.subject, sha256)
    tag, size = bytes.fromhex(sha256)[:8], reader.size_bytes
    if tag in request.packet.all(Option.ETAG):
        return empty(VALID, (Option.ETAG, tag))
    try:
        part = cut(request.packet.block(Option.BLOCK2), size)
    except OutOfRange:
        return problems.problem(
            Rejected(code="range_invalid", reason=f"The artifact has {size} bytes"), code=BAD_OPTION
        )
    content = await _between(reader.read(*((0, size) if part is None else (part[0].start, part[1]))))
    given: list[tuple[int, bytes | None]] = [(Option.ETAG, tag), (Option.CONTENT_FORMAT, uint(OCTET_STREAM))]
    if part is not None:
        given += block_options(part[0], size)
    return Packet(kind=Kind.ACK, code=CONTENT, options=options(given), payload=content)


async def _between(pieces: object) -> bytes:
    assert isinstance(pieces, AsyncGenerator)
    try:
        return b"".join([piece async for piece in pieces])
    finally:
        await pieces.aclose()


async def discover(request: Request) -> Packet:
    """``GET /device/v1/``: the limits, and the device that the credential names."""
    device = None if request.session is None else request.session.identity
    return request.content(request.peer.state.context.discovery(device))


def link_list() -> Packet:
    """``GET /.well-known/core``."""
    given = [(Option.CONTENT_FORMAT, uint(LINK_FORMAT))]
    return Packet(kind=Kind.ACK, code=CONTENT, options=options(given), payload=links().encode())


Handler = Callable[[Request], Awaitable[Packet]]

_OWN_FORM: Mapping[MessageType, Handler] = {
    messages.ENROLL: enroll,
    messages.CERTIFICATE_RENEW: renew,
    messages.CA_GET: ca_bundle,
    messages.ARTIFACT: artifact,
}


def handler_of(row: MessageType | None) -> Handler:
    """The handler of requests of a row."""
    if row is None:
        return discover
    own = _OWN_FORM.get(row)
    if own is not None:
        return own
    if row.waits:
        return waiting
    return uplink if row.direction is Direction.UP else call
