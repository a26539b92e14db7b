"""Frames of the live stream: what an operator sends, with its bounds, and what the server sends."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from fleetcore.calls.decode import JSON_DEPTH, refusal
from fleetcore.calls.types import ALPHABETS, EVENT_PREFIX, Where, decode_hook
from fleetcore.errors import FleetError, Refused
from fleetcore.wire.decode import Fault, fault_of
from fleetcore.wire.strict_json import StrictJsonError, loads

#: The parts of a device that a subscription to state may select.
Part = Literal[
    "name", "type", "model", "tags", "lifecycle", "capabilities", "gateway", "home", "attributes", "location",
    "groups", "desired", "reported", "firmware", "power", "connectivity", "last_seen", "latest",
]  # fmt: skip
Frame = Mapping[str, object]
_Id = Annotated[str, Meta(min_length=1, max_length=64)]
_Metric = Annotated[str, Meta(min_length=1, max_length=128)]


class Subscribe(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag="subscribe", forbid_unknown_fields=True):
    """Starts a subscription.

    Attributes:
        id: chosen by the reader; every frame of the subscription has it.
        to: what to follow.
        where: a query that selects devices.
        parts: of ``state``: the parts of a device to send.
        types: of ``events``: the beginnings of the types to send.
        metrics: of ``readings``: the metrics to send.
        after: start after this position.
    """

    id: _Id
    to: Literal["state", "events", "readings"]
    where: Where | None = None
    parts: Annotated[Sequence[Part], Meta(min_length=1, max_length=20)] | None = None
    types: Annotated[Sequence[Annotated[str, Meta(pattern=EVENT_PREFIX)]], Meta(max_length=100)] | None = None
    metrics: Annotated[Sequence[_Metric], Meta(max_length=100)] | None = None
    after: Annotated[int, Meta(ge=0, lt=10**18)] | None = None


class Unsubscribe(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag="unsubscribe", forbid_unknown_fields=True
):
    """Ends a subscription."""

    id: _Id


#: Members of a subscription → the kinds that may have them.
_BELONGS = {"parts": "state", "types": "events", "metrics": "readings"}


def read(payload: bytes) -> Subscribe | Unsubscribe:
    """Decodes one frame of an operator. Raises Refused, with a pointer to the fault."""
    try:
        plain = loads(payload, depth=JSON_DEPTH)
    except StrictJsonError as error:
        raise Refused(error.message, code=error.code) from error
    try:
        found = msgspec.convert(plain, Subscribe | Unsubscribe, dec_hook=decode_hook)
    except msgspec.ValidationError as error:
        raise refusal([fault_of(error, "", Subscribe, ALPHABETS)]) from None
    if isinstance(found, Subscribe):
        for name, to in _BELONGS.items():
            if getattr(found, name) is not None and found.to != to:
                raise refusal([Fault(f"/{name}", f"it belongs to {to!r}", f"Leave {name} out, or subscribe to {to!r}")])
    return found


def id_of(payload: bytes) -> str | None:
    """The subscription id of a frame that cannot be decoded, as far as it can be found."""
    try:
        return msgspec.json.decode(payload, type=_Named).id
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


class _Named(msgspec.Struct):
    id: _Id | None = None


def refused(id: str | None, error: FleetError) -> Frame:
    """A frame was refused and changed nothing; ``id`` is the subscription that it names, if any."""
    return {"op": "error", **({} if id is None else {"id": id}), "error": error}


def ended(id: str, error: FleetError) -> Frame:
    """A subscription cannot continue and has ended."""
    return {"op": "ended", "id": id, "error": error}
