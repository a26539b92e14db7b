"""The JSON that this plugin reads and writes: requests, replies and the ``errors`` message.

Payloads of uplinks pass through unchanged; a request's ``body`` is cut out as bytes, so that the core's strict reader
finds every fault in it.
"""

import json
from collections.abc import Mapping

import msgspec

from fleetcore.errors import CODES
from fleetcore.model.message import Inbound, Rejected, Reply
from fleetcore.wire import messages, strict_json
from fleetcore.wire.bodies import unreadable
from fleetcore.wire.replies import problem
from fleetcore.wire.strict_json import StrictJsonError
from fleetcore.wire.times import format_time
from fleetcore_mqtt.packets import Reason


class _Request(msgspec.Struct):
    op: str
    body: msgspec.Raw = msgspec.Raw(b"")
    if_version: int | None = None
    target: str | None = None
    id: str | None = None


_decoder = msgspec.json.Decoder(_Request)
#: Deeper than any body may be; the core checks the real limit.
_DEPTH = 64


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (tuple, set, frozenset)):
        return list(value)
    raise TypeError(f"{type(value).__name__} cannot be sent as JSON")


#: json.dumps() creates an encoder for every call with special options.
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=_plain).encode


def to_json(body: object) -> bytes:
    """Compact JSON in ASCII; raises ValueError for NaN and TypeError for values that JSON cannot represent."""
    return _encode(body).encode()


def read_request(payload: bytes, subject: str) -> Inbound | Rejected:
    """The message in ``request/{rid}`` (wire.md §4), or the reason of its refusal."""
    try:
        strict_json.loads(payload, depth=_DEPTH)  # a duplicate member is refused, as in every body
        request = _decoder.decode(payload)
    except StrictJsonError as error:
        return unreadable(error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Rejected(code="payload_unreadable", reason=f"the request cannot be read: {error}")
    kind = messages.NAMED.get(request.op)
    if kind is None:
        return Rejected(code="operation_unknown", reason=f"the operation {request.op[:64]!r} is unknown", pointer="/op")
    body = bytes(request.body)
    return Inbound(
        type=kind,
        subject=subject,
        payload=b"" if body == b"null" else body,
        content_type="application/json" if body else None,
        id=request.id,
        target=request.target,
        if_version=request.if_version,
    )


def reply_body(reply: Reply) -> dict[str, object]:
    """The reply on ``reply/{rid}``."""
    if reply.error is not None:
        return {"ok": False, "error": reply.error}
    out: dict[str, object] = {"ok": True, "status": reply.status}
    if reply.version is not None:
        out["version"] = reply.version
    if reply.etag is not None:
        out["etag"] = reply.etag
    if reply.body is not None:
        out["body"] = reply.body
    return out


#: The end of a connection as codes of ``errors``; all others are protocol violations.
_CLOSINGS = {
    Reason.TAKEN_OVER: ("session_taken_over", "another connection of this device has replaced it"),
    Reason.BUSY: ("overloaded", "connect and send again later"),
    Reason.QUOTA: ("overloaded", "too many messages wait for this client"),
    Reason.SHUTTING_DOWN: ("overloaded", "the server is stopping"),
    Reason.KEEP_ALIVE: ("protocol_violation", "nothing was received for one and a half times the keep alive"),
    Reason.TOO_LARGE: ("limit_exceeded", "the packet is too large"),
}


def closing(reason: Reason, text: str, now_ms: int) -> dict[str, object]:
    """The message on ``errors`` before the close, for a 3.1.1 client, which gets no DISCONNECT from the server."""
    code, known = _CLOSINGS.get(reason, ("protocol_violation", text))
    if text in CODES:  # why the plane has ended the session
        code, known = text, CODES[text].title
    rejected = Rejected(code=code, reason=known)
    return problem(rejected, received=format_time(now_ms), closed=True)
