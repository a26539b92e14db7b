"""Frames of the two subprotocols: decodes WebSocket messages to :class:`Frame`, and encodes replies and pushes.

A body passes through unchanged: in JSON it is cut out of the frame, in CBOR a byte string is taken as it is. So the
core's strict reader finds every fault in it. In CBOR a body that is an item of the frame is encoded again, with its
value unchanged. ``data_base64`` has the bytes of a body that is not JSON in a JSON frame.
"""

import base64
import binascii
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from attrs import frozen
from websockets.frames import Opcode

from fleetcore.errors import Refused
from fleetcore.model.message import Downlink, Rejected, Reply
from fleetcore.model.names import is_message_id
from fleetcore.wire import strict_cbor, strict_json
from fleetcore.wire.bodies import unreadable
from fleetcore.wire.headers import media_type
from fleetcore.wire.strict_json import StrictJsonError

#: Deeper than any body may be; the core checks the real limit.
_DEPTH = 64
#: The members of a frame beside its body.
ENVELOPE_BYTES = 8192

#: The range of a device's request numbers.
RequestId = int | str
_Id = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)] | Annotated[str, msgspec.Meta(max_length=64)]
_Name = Annotated[str, msgspec.Meta(max_length=128)]


@frozen(kw_only=True)
class Frame:
    """What a device sent.

    Attributes:
        op: the name of a row of the table of message types, or an unknown name.
        id: its number, ``re`` in the reply. None: it wants no reply.
        device: the subject, or None for the device itself.
        payload: the body's bytes.
        content_type: their media type, or None if the codec is to detect it.
        message_id: identifies repetitions, as HTTP's ``Idempotency-Key``.
    """

    op: str
    id: RequestId | None = None
    device: str | None = None
    target: str | None = None
    if_version: int | None = None
    message_id: str | None = None
    content_type: str | None = None
    payload: bytes = b""


class Unreadable(Exception):
    """A message of the WebSocket is not a frame; ``id`` is its number if it could be read."""

    def __init__(self, rejected: Rejected, id: RequestId | None = None) -> None:
        super().__init__(rejected.reason)
        self.rejected, self.id = rejected, id


class _Members(msgspec.Struct, kw_only=True):
    op: _Name
    id: _Id | None = None
    device: _Name | None = None
    target: _Name | None = None
    if_version: Annotated[int, msgspec.Meta(ge=0)] | None = None
    message_id: str | None = None
    content_type: _Name | None = None

    def frame(self, payload: bytes, content_type: str | None) -> Frame:
        if self.message_id is not None and not is_message_id(self.message_id):
            reason = "message_id must be 1-64 printable ASCII characters"
            raise Unreadable(Rejected(code="schema_invalid", reason=reason, pointer="/message_id"), self.id)
        return Frame(
            op=self.op,
            id=self.id,
            device=self.device,
            target=self.target,
            if_version=self.if_version,
            message_id=self.message_id,
            payload=payload,
            content_type=content_type if self.content_type is None else _media_type(self),
        )


class _JsonMembers(_Members, kw_only=True):
    body: msgspec.Raw = msgspec.Raw(b"")
    data_base64: str | None = None


class _Number(msgspec.Struct):
    id: _Id | None = None


def _media_type(members: _Members) -> str:
    try:
        return media_type(members.content_type or "")
    except Refused as error:
        raise Unreadable(
            Rejected(code=error.code, reason=error.message, pointer="/content_type"), members.id
        ) from error


class Form(ABC):
    """One subprotocol."""

    name: str
    opcode: Opcode

    def read(self, payload: bytes) -> Frame:
        """Decodes a message of the WebSocket; raises Unreadable."""
        try:
            return self._read(payload)
        except StrictJsonError as error:
            raise Unreadable(unreadable(error), self._number(payload)) from error
        except msgspec.ValidationError as error:
            raise Unreadable(
                Rejected(code="schema_invalid", reason=f"The frame: {error}"), self._number(payload)
            ) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Unreadable(Rejected(code="payload_unreadable", reason=f"The frame is not JSON: {error}")) from error

    @abstractmethod
    def _read(self, payload: bytes) -> Frame: ...

    @abstractmethod
    def _number(self, payload: bytes) -> RequestId | None: ...

    @abstractmethod
    def write(self, members: Mapping[str, object]) -> bytes:
        """Encodes a frame."""

    @abstractmethod
    def body(self, data: bytes) -> Mapping[str, object]:
        """The members of a frame with ready bytes."""

    @abstractmethod
    def plain(self, payload: bytes) -> object:
        """Any frame as plain data: for the device side."""


class JsonForm(Form):
    """``fleetcore.v1``: text messages of JSON."""

    name = "fleetcore.v1"
    opcode = Opcode.TEXT
    _members = msgspec.json.Decoder(_JsonMembers)
    _id = msgspec.json.Decoder(_Number)

    def _read(self, payload: bytes) -> Frame:
        # A duplicate member is refused, as in every body.
        strict_json.loads(payload, depth=_DEPTH)
        members = self._members.decode(payload)
        body = bytes(members.body)
        body = b"" if body == b"null" else body  # a null member counts as absent
        if members.data_base64 is None:
            return members.frame(body, "application/json" if body else None)
        if body:
            reason = "body and data_base64 exclude each other"
            raise Unreadable(Rejected(code="schema_invalid", reason=reason, pointer="/data_base64"), members.id)
        try:
            return members.frame(base64.b64decode(members.data_base64, validate=True), None)
        except (binascii.Error, ValueError) as error:
            rejected = Rejected(code="payload_unreadable", reason="It is not base64", pointer="/data_base64")
            raise Unreadable(rejected, members.id) from error

    def _number(self, payload: bytes) -> RequestId | None:
        try:
            return self._id.decode(payload).id
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None

    def write(self, members: Mapping[str, object]) -> bytes:
        return _encode(members)

    def body(self, data: bytes) -> Mapping[str, object]:
        try:
            strict_json.loads(data)
        except StrictJsonError:
            return {"data_base64": base64.b64encode(data).decode("ascii")}
        if data.strip(b" \t\r\n") != data:  # a value cut out of a frame has no white space around it
            return {"data_base64": base64.b64encode(data).decode("ascii")}
        return {"body": msgspec.Raw(data)}

    def plain(self, payload: bytes) -> object:
        return msgspec.json.decode(payload)


class CborForm(Form):
    """``fleetcore.v1.cbor``: binary messages of CBOR."""

    name = "fleetcore.v1.cbor"
    opcode = Opcode.BINARY

    def _read(self, payload: bytes) -> Frame:
        plain = strict_cbor.loads(payload, depth=_DEPTH)
        members = msgspec.convert(plain, _Members)
        assert isinstance(plain, dict)
        body = plain.get("body")
        if body is None:
            return members.frame(b"", None)
        if isinstance(body, bytes):
            return members.frame(body, None)
        return members.frame(strict_cbor.dumps(body), "application/cbor")

    def _number(self, payload: bytes) -> RequestId | None:
        try:
            return msgspec.convert(strict_cbor.loads(payload, depth=_DEPTH), _Number).id
        except (StrictJsonError, msgspec.ValidationError):
            return None

    def write(self, members: Mapping[str, object]) -> bytes:
        return strict_cbor.dumps(_plain(members))

    def body(self, data: bytes) -> Mapping[str, object]:
        return {"body": data}

    def plain(self, payload: bytes) -> object:
        return strict_cbor.loads(payload, depth=_DEPTH)


def _hook(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} cannot be sent as CBOR")


_encode = msgspec.json.Encoder(enc_hook=_hook).encode


def _plain(value: Any) -> object:
    """Mappings and sequences of any type as those that CBOR encodes."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


FORMS: Mapping[str, Form] = {form.name: form for form in (JsonForm(), CborForm())}


def reply_members(id: RequestId, reply: Reply, pending: Mapping[str, int]) -> dict[str, object]:
    """A reply: the content of MQTT's ``reply/{rid}``, with the request's number and the waiting items."""
    out: dict[str, object] = {"re": id, "ok": reply.error is None}
    if reply.error is not None:
        out["error"] = reply.error
    else:
        out["status"] = reply.status
    more = {"version": reply.version, "etag": reply.etag, "body": reply.body}
    out |= {name: value for name, value in more.items() if value is not None}
    if waits := {name: count for name, count in pending.items() if count}:
        out["pending"] = waits
    return out


def downlink_members(identity: str, downlink: Downlink) -> dict[str, object]:
    """A push; ``device`` is present for a leaf."""
    out: dict[str, object] = {"op": downlink.type.name, "body": downlink.body}
    if downlink.subject != identity:
        out["device"] = downlink.subject
    if downlink.target is not None:
        out["target"] = downlink.target
    return out
