"""The MQTT column of the table of message types: topics and their meaning.

The endpoint parses and authorises with it, the consumer subscribes with it and the broker's access lists are generated
from it, so the three cannot differ. A topic is compared level by level, never by filling in a template: then a wildcard
in a name cannot widen anything (the class of CVE-2017-7650).
"""

from collections.abc import Mapping, Sequence

from attrs import frozen

from fleetcore.model.message import Direction, Downlink, MessageType
from fleetcore.model.names import is_device_id, is_message_id
from fleetcore.wire import messages

PREFIX = ("fleet", "v1")

#: The prefix of a claim certificate's common name: its colon keeps it from being a device's level.
CLAIM = "fleetcore:claim:"

_TARGET = "{target}"
#: Any call, and its reply: for message types without a topic (wire.md §4).
_REQUEST, _REPLY = "request/+", "reply/+"


def _carried(row: MessageType) -> MessageType | None:
    """The row, or None if its topics are reserved for a later version."""
    return None if "mqtt" in row.later else row


_UP_TOPICS = tuple((name, row) for row in messages.ALL for name in row.mqtt)
_DOWN_TOPICS = tuple((row.mqtt_down, row) for row in messages.ALL if row.mqtt_down is not None)

#: What a device may publish, below its prefix. None: reserved for a later version.
WRITE: tuple[tuple[str, MessageType | None], ...] = (
    *((name.replace(_TARGET, "+"), _carried(row)) for name, row in _UP_TOPICS),
    (_REQUEST, None),
)

#: What a device may subscribe to, below its prefix.
READ: tuple[str, ...] = (*(name.replace(_TARGET, "+") for name, _ in _DOWN_TOPICS), _REPLY)

#: These go straight to the data path; every other known type is a call.
DELIVERED = frozenset(row for _, row in _UP_TOPICS if row.direction is Direction.UP and _carried(row) is not None)

_WILDCARDS = frozenset("+#")
#: The topic of a reply or of a message to the device, by type.
_DOWN = {row: name for name, row in _DOWN_TOPICS if _carried(row) is not None}
_UP = {row: row.mqtt[0] for _, row in _UP_TOPICS if _carried(row) is not None}
_LITERAL = {name: row for name, row in WRITE if row is not None and "+" not in name}
_UP_LEVELS = tuple((name.split("/"), row) for name, row in _UP_TOPICS if _TARGET in name)
_DOWN_LEVELS = tuple((name.split("/"), row) for row, name in _DOWN.items())
_READ_LEVELS = tuple(tuple(name.split("/")) for name in READ)


@frozen
class Uplink:
    """The meaning of a publish topic.

    Attributes:
        device: the level that identifies the sender.
        subject: the device that the message is about: ``device`` or the leaf below it.
        type: None for a request and for an unknown topic.
        name: the topic below the prefix, for people.
        target: the command of a result, or None.
        request: the id of a request, or None.
    """

    device: str
    subject: str
    type: MessageType | None
    name: str
    target: str | None = None
    request: str | None = None

    @property
    def senml(self) -> bool:
        """Whether the topic itself declares the payload to be SenML."""
        return self.name == "telemetry/senml"


def parse(topic: str) -> Uplink | None:
    """The meaning of a device's publish topic; None if it is not ``fleet/v1/{device}[/leaf/{leaf}]/…``."""
    levels = topic.split("/")
    if len(levels) < 4 or (levels[0], levels[1]) != PREFIX or not is_device_id(levels[2]):
        return None
    device = subject = levels[2]
    rest = levels[3:]
    if rest[0] == "leaf":
        if len(rest) < 3 or not is_device_id(rest[1]):
            return None
        subject, rest = rest[1], rest[2:]
    name = "/".join(rest)
    if _WILDCARDS & set(name):
        return None
    if len(rest) == 2 and rest[0] == "request" and is_message_id(rest[1]):
        return Uplink(device, subject, None, name, request=rest[1])
    row, target = _LITERAL.get(name), None
    if row is None:
        row, target = _filled_in(_UP_LEVELS, rest)
    return Uplink(device, subject, row, name, target=target)


def _filled_in(
    shapes: Sequence[tuple[list[str], MessageType]], levels: Sequence[str]
) -> tuple[MessageType, str | None] | tuple[None, None]:
    """The type whose topic ``levels`` are, and the id at ``{target}``."""
    for shape, row in shapes:
        if len(shape) != len(levels):
            continue
        target = next((level for name, level in zip(shape, levels, strict=True) if name == _TARGET), None)
        if target is not None and not is_message_id(target):
            continue
        if all(name in (level, _TARGET) for name, level in zip(shape, levels, strict=True)):
            return row, target
    return None, None


def below(device: str, subject: str, name: str) -> str:
    """The topic of ``name`` for ``subject``, which is ``device`` or one of its leaves."""
    leaf = "" if subject == device else f"leaf/{subject}/"
    return f"fleet/v1/{device}/{leaf}{name}"


def downlink_topic(device: str, downlink: Downlink) -> str | None:
    """The topic of a downlink for the connection of ``device``; None for one without an MQTT topic."""
    name = _DOWN.get(downlink.type)
    return None if name is None else below(device, downlink.subject, name.replace(_TARGET, str(downlink.target)))


def answer_topic(device: str, subject: str, row: MessageType) -> str:
    """The reply topic of a call that has its own topics."""
    return below(device, subject, _DOWN[row])


def uplink_topic(device: str, row: MessageType, subject: str, target: str | None = None) -> str | None:
    """The topic for a message of ``device`` about ``subject``; None for a type that MQTT sends in a request."""
    name = _UP.get(row)
    return None if name is None else below(device, subject, name.replace(_TARGET, str(target)))


def parse_downlink(topic: str) -> tuple[MessageType, str, str | None] | tuple[None, str, str] | None:
    """The meaning of a topic that the server publishes to: type, subject, target; for a reply None, subject, id."""
    levels = topic.split("/")
    if len(levels) < 4 or (levels[0], levels[1]) != PREFIX:
        return None
    subject, rest = levels[2], levels[3:]
    if rest[0] == "leaf" and len(rest) > 2:
        subject, rest = rest[1], rest[2:]
    if len(rest) == 2 and rest[0] == "reply":
        return None, subject, rest[1]
    row, target = _filled_in(_DOWN_LEVELS, rest)
    return None if row is None else (row, subject, target)


def filters(names: Sequence[str], device: str = "+") -> list[str]:
    """The lists above as topic filters: below ``device`` and again below its leaves."""
    return [f"fleet/v1/{device}/{leaf}{name}" for leaf in ("", "leaf/+/") for name in names]


def is_filter(text: str) -> bool:
    """Whether ``text`` is a well-formed topic filter (MQTT 5.0 §4.7.1)."""
    if not text:
        return False
    levels = text.split("/")
    return all(
        level == "+" or (level == "#" and at == len(levels) - 1) or ("+" not in level and "#" not in level)
        for at, level in enumerate(levels)
    )


def may_subscribe(device: str, text: str) -> bool:
    """Whether a well-formed filter is completely below the device's own prefix and matches something it may read."""
    levels = text.split("/")
    if len(levels) < 4 or levels[:3] != [*PREFIX, device]:
        return False
    rest = levels[3:]
    return any(_overlap(rest, shape) or _overlap(rest, ("leaf", "+", *shape)) for shape in _READ_LEVELS)


def is_own_reply(device: str, topic: str) -> bool:
    """Whether ``topic`` is a valid reply topic of ``device``: ``reply/{rid}`` of its own or of a leaf."""
    levels = topic.split("/")
    if levels[3:4] == ["leaf"]:
        del levels[3:5]
    return levels[:-1] == [*PREFIX, device, "reply"] and is_message_id(levels[-1]) and not _WILDCARDS & set(topic)


def claim_request(name: str, topic: str) -> str | None:
    """The request id in ``fleet/v1/{name}/request/{rid}``, the only publish topic of a claim certificate.

    ``name`` is the certificate's common name. It contains colons, so it is not a device id and :func:`parse` refuses
    it.
    """
    return _last_below(name, "request", topic)


def is_claim_reply(name: str, topic: str) -> bool:
    """Whether ``topic`` is ``fleet/v1/{name}/reply/{rid}``, the only topic that a claim certificate reads."""
    return _last_below(name, "reply", topic) is not None


def may_claim_subscribe(name: str, text: str) -> bool:
    """Whether a filter is ``fleet/v1/{name}/reply/+``, or one reply of it."""
    return text.split("/") == [*PREFIX, name, "reply", "+"] or is_claim_reply(name, text)


def _last_below(name: str, kind: str, topic: str) -> str | None:
    levels = topic.split("/")
    if levels[:-1] != [*PREFIX, name, kind] or _WILDCARDS & set(topic):
        return None
    return levels[-1] if is_message_id(levels[-1]) else None


def matches(text: str, topic: str) -> bool:
    """Whether the filter ``text`` matches ``topic``; fleetcore's topics never start with ``$``."""
    shape, levels = text.split("/"), topic.split("/")
    for at, level in enumerate(shape):
        if level == "#":
            return True
        if at >= len(levels) or (level not in {"+", levels[at]}):
            # "a/#" also matches "a" (MQTT 5.0 §4.7.1.2).
            return False
    return len(shape) == len(levels) or shape[len(levels) :] == ["#"]


def granted(filters: Mapping[str, int], topic: str) -> int | None:
    """The highest QoS of the filters that match a topic; None if none does."""
    return max((qos for name, qos in filters.items() if matches(name, topic)), default=None)


def _overlap(item: Sequence[str], other: Sequence[str]) -> bool:
    """Whether some topic matches both filters."""
    for at, level in enumerate(item):
        if level == "#":
            return True
        if at >= len(other) or not (level == other[at] or "+" in {level, other[at]}):
            return False
    return len(item) == len(other)
