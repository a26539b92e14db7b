"""Topics of the wire table and what they mean: one list to write, one to read, for the whole plugin.

The endpoint parses and authorises by it, the consumer subscribes by it and the broker's access lists are printed
from it, so the three cannot differ. A topic is compared level by level, never by filling in a template: a name with
a wildcard in it then has nothing to widen (SECURITY.md, the class of CVE-2017-7650).
"""

from collections.abc import Sequence

from attrs import frozen

from fleetcore.model.message import Downlink, Operation
from fleetcore.model.names import is_device_id, is_message_id

PREFIX = ("fleet", "v1")

#: How the common name of a claim certificate begins: with a colon, so that it is no device's level.
CLAIM = "fleetcore:claim:"

#: What a device may publish, below its prefix (WIRE.md §1). None: the name is reserved for a later version.
WRITE: tuple[tuple[str, Operation | None], ...] = (
    ("telemetry", Operation.TELEMETRY),
    ("telemetry/senml", Operation.TELEMETRY),
    ("events", None),
    ("logs", None),
    ("location", Operation.LOCATION),
    ("status", Operation.STATUS),
    ("twin/reported", Operation.TWIN_REPORT),
    ("twin/get", Operation.TWIN_GET),
    ("twin/ack", Operation.TWIN_ACK),
    ("commands/+/result", Operation.COMMAND_RESULT),
    ("firmware/status", Operation.FIRMWARE_STATUS),
    ("artifacts/+/+/+", None),
    ("time/get", Operation.TIME),
    ("request/+", None),
)

#: What a device may subscribe to, below its prefix (WIRE.md §1).
READ: tuple[str, ...] = (
    "twin",
    "twin/desired",
    "commands",
    "commands/+/cancel",
    "firmware",
    "artifacts/+/+",
    "time",
    "reply/+",
    "errors",
)

#: Handed to the plane's quick way in; everything else that is known is a call.
DELIVERED = frozenset(
    {
        Operation.TELEMETRY,
        Operation.LOCATION,
        Operation.STATUS,
        Operation.TWIN_REPORT,
        Operation.TWIN_ACK,
        Operation.COMMAND_RESULT,
        Operation.FIRMWARE_STATUS,
    }
)

#: Answered by a publication of their own instead of by the acknowledgement alone: operation → topic of the answer.
ANSWERED = {Operation.TWIN_GET: "twin", Operation.TIME: "time"}

_WILDCARDS = frozenset("+#")
_DOWN = {
    Operation.TWIN_GET: "twin",
    Operation.TWIN_DESIRED: "twin/desired",
    Operation.COMMAND: "commands",
    Operation.FIRMWARE: "firmware",
    Operation.TIME: "time",
    Operation.ERRORS: "errors",
}
_DOWN_NAMES = {name: operation for operation, name in _DOWN.items()}
_UP = {operation: name for name, operation in reversed(WRITE) if operation is not None and "+" not in name}
_LITERAL = {name: operation for name, operation in WRITE if "+" not in name}
_READ_LEVELS = tuple(tuple(name.split("/")) for name in READ)


@frozen
class Uplink:
    """What a publish topic says.

    Attributes:
        device: the level that stands for the identity.
        subject: whom the message is about: ``device`` or the leaf below it.
        operation: None for a request and for a topic that means nothing (yet).
        name: the topic below the prefix, for people.
        target: the command of a result, or None.
        request: the id of a request, or None.
    """

    device: str
    subject: str
    operation: Operation | None
    name: str
    target: str | None = None
    request: str | None = None

    @property
    def senml(self) -> bool:
        """Whether the topic itself declares the payload to be SenML."""
        return self.name == "telemetry/senml"


def parse(topic: str) -> Uplink | None:
    """What a device's publish topic means; None where it is not of the form ``fleet/v1/{device}[/leaf/{leaf}]/…``."""
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
    match rest:
        case ["commands", target, "result"] if is_message_id(target):
            return Uplink(device, subject, Operation.COMMAND_RESULT, name, target=target)
        case ["request", request] if is_message_id(request):
            return Uplink(device, subject, None, name, request=request)
        case _:
            return Uplink(device, subject, _LITERAL.get(name), name)


def below(device: str, subject: str, name: str) -> str:
    """The topic of ``name`` for ``subject``, which is ``device`` or one of its leaves."""
    leaf = "" if subject == device else f"leaf/{subject}/"
    return f"fleet/v1/{device}/{leaf}{name}"


def downlink_topic(device: str, downlink: Downlink) -> str | None:
    """Where a downlink is published for the connection of ``device``; None for one that MQTT has no topic for."""
    if downlink.operation is Operation.COMMAND_CANCEL:
        name: str | None = f"commands/{downlink.target}/cancel"
    else:
        name = _DOWN.get(downlink.operation)
    return None if name is None else below(device, downlink.subject, name)


def uplink_topic(device: str, operation: Operation, subject: str, target: str | None = None) -> str | None:
    """Where ``device`` publishes an uplink about ``subject``; None for an operation that MQTT carries in a request."""
    if operation is Operation.COMMAND_RESULT:
        return below(device, subject, f"commands/{target}/result")
    name = _UP.get(operation)
    return None if name is None else below(device, subject, name)


def parse_downlink(topic: str) -> tuple[Operation, str, str | None] | tuple[None, str, str] | None:
    """What a topic that the server publishes to means: operation, subject, target; for a reply None, subject, id."""
    levels = topic.split("/")
    if len(levels) < 4 or (levels[0], levels[1]) != PREFIX:
        return None
    subject, rest = levels[2], levels[3:]
    if rest[0] == "leaf" and len(rest) > 2:
        subject, rest = rest[1], rest[2:]
    match rest:
        case ["commands", target, "cancel"]:
            return Operation.COMMAND_CANCEL, subject, target
        case ["reply", request]:
            return None, subject, request
        case _:
            operation = _DOWN_NAMES.get("/".join(rest))
            return None if operation is None else (operation, subject, None)


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
    """Whether a well-formed filter lies wholly below the device's own prefix and meets something it may read."""
    levels = text.split("/")
    if len(levels) < 4 or levels[:3] != [*PREFIX, device]:
        return False
    rest = levels[3:]
    return any(_overlap(rest, shape) or _overlap(rest, ("leaf", "+", *shape)) for shape in _READ_LEVELS)


def is_own_reply(device: str, topic: str) -> bool:
    """Whether ``topic`` is where ``device`` may have an answer published: ``reply/{rid}`` of its own or of a leaf."""
    levels = topic.split("/")
    if levels[3:4] == ["leaf"]:
        del levels[3:5]
    return levels[:-1] == [*PREFIX, device, "reply"] and is_message_id(levels[-1]) and not _WILDCARDS & set(topic)


def claim_request(name: str, topic: str) -> str | None:
    """The request's id where ``topic`` is ``fleet/v1/{name}/request/{rid}``: all that a claim certificate publishes to.

    ``name`` is the certificate's common name. It holds colons, so it is no device's level and :func:`parse` refuses it.
    """
    return _last_below(name, "request", topic)


def is_claim_reply(name: str, topic: str) -> bool:
    """Whether ``topic`` is ``fleet/v1/{name}/reply/{rid}``: all that a claim certificate reads."""
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
    """Whether the filter ``text`` selects ``topic``; topics of ours never start with ``$``."""
    shape, levels = text.split("/"), topic.split("/")
    for at, level in enumerate(shape):
        if level == "#":
            return True
        if at >= len(levels) or (level not in {"+", levels[at]}):
            # "a/#" selects "a" too (MQTT 5.0 §4.7.1.2).
            return False
    return len(shape) == len(levels) or shape[len(levels) :] == ["#"]


def _overlap(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether some topic is selected by both filters."""
    for at, level in enumerate(one):
        if level == "#":
            return True
        if at >= len(other) or not (level == other[at] or "+" in {level, other[at]}):
            return False
    return len(one) == len(other)
