"""What goes in and out, as types: the OpenAPI document is made from these, and bodies are checked against them."""

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from fleetcore.wire.times import format_time

Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
_DEVICE_ID, _LABEL = r"^[A-Za-z0-9][A-Za-z0-9._\-]{0,63}$", r"^[A-Za-z0-9 ._/:\-]{1,128}$"
#: What is told to who breaks an alphabet.
ALPHABETS = {
    _DEVICE_ID: "1-64 characters of A-Z a-z 0-9 . _ - that start with a letter or digit",
    _LABEL: "1-128 characters of letters, digits, space and . _ / : -",
}
DeviceId = Annotated[str, Meta(pattern=_DEVICE_ID)]
Label = Annotated[str, Meta(pattern=_LABEL)]
Text = Annotated[str, Meta(max_length=1024)]
Reason = Annotated[str, Meta(max_length=1024, description="Why: written into the audit log.")]
Json = dict[str, Any]


class In(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What is sent: an unknown member is refused."""


class Out(msgspec.Struct, kw_only=True):
    """What is answered."""


def when(ms: int | None) -> str | None:
    """A time for people and machines; 0 stands for none in records."""
    return format_time(ms) if ms else None


#: Members of records that are times in ms.
_TIMES = frozenset(
    {
        "added", "asleep_until", "changed", "created", "deliver_by", "due", "ended_at", "expires", "expires_at",
        "finished_at", "found", "issued_at", "last_seen", "last_used", "not_after", "not_before", "renew_after",
        "result_by", "sent_at", "since", "start", "time", "until", "updated",
    }
)  # fmt: skip

S = TypeVar("S", bound=Out)


def shown(cls: type[S], record: object, **more: Any) -> S:
    """A record as it is answered: members of one name, times as text; ``more`` is what the record does not say."""
    for name in cls.__struct_fields__:
        if name not in more:
            value = getattr(record, name)
            if isinstance(value, tuple):
                more[name] = list(value)
            else:
                more[name] = when(value) if name in _TIMES else value
    return cls(**more)


class Problem(Out):
    """A refusal (RFC 9457); ``code`` is stable."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    remedy: str | UnsetType = UNSET
    ids: Json | UnsetType = UNSET


class Health(Out):
    """Whether the server lives, or may be sent work."""

    status: str
    waiting_for: list[str] = []


class ChangeOut(Out):
    """A change: who did what, when and why."""

    seq: int
    time: Time | None
    actor: str
    action: str
    object: str
    reason: str
    changed: list[str]


class MembershipOut(Out):
    """A group that a device is in itself."""

    device: str
    group: str
    since: Time | None
    why: str
