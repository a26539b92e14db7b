"""A message between a device and the fleet: its type, its sender, and its outcome.

Protocol adapters translate their packets to :class:`Inbound` and from :class:`Downlink`. The types of messages are the
rows of :mod:`fleetcore.wire.messages`.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from functools import cache
from typing import Any

from attrs import field, frozen
from msgspec import Struct

from fleetcore.errors import CODES


class Direction(StrEnum):
    """The direction of a message, and how it is answered."""

    #: From a device; acknowledged once it is committed.
    UP = "up"
    #: From a device; answered with content.
    CALL = "call"
    #: To a device.
    DOWN = "down"


@frozen(kw_only=True, eq=False, repr=False)
class MessageType:
    """One row of the table of message types: the content of the message, and how each protocol carries it.

    Rows are compared by identity. ``{target}`` in a topic or path is the id that the message is about, such as a
    command's.

    Attributes:
        name: ``op`` of a WebSocket frame and of a request over MQTT.
        title: its purpose, in a few words.
        direction: its direction.
        body: the type of its body, a :class:`msgspec.Struct` with bounds or a mapping; None where codecs read it, or
            where there is none.
        many: how many bodies one message may hold as a list, each validated alone; 0 for a single body.
        example: an example of the body.
        answer: the type of a call's answer, or None.
        answer_example: an example of the answer.
        leaf: whether a gateway may send or get it for its leaves.
        public: whether peers without a credential may send it.
        waits: its member in the answer of ``inbox``, where a device may ask for it and wait until there is one.
        checks_version: whether the sender may name the version that it changes, by If-Match or ``if_version``.
        mqtt: the topics that the device publishes it to, below its prefix; the first is the usual one.
        mqtt_down: the topic on which the device receives it, or the answer.
        methods: HTTP methods of ``path``, or of CoAP.
        path: below ``/device/v1/``, for HTTP and CoAP; None where they do not carry it.
        media_types: the content types of its body over HTTP, the usual one first; empty for any that codecs read.
        coap_method: the method or methods of CoAP, for people.
        coap_alias: a short path for CoAP.
        statuses: how HTTP and CoAP answer, for people.
        note: special cases, for people.
        later: the protocols that do not carry it yet; their columns are reserved.
    """

    name: str
    title: str
    direction: Direction
    body: Any = None
    many: int = 0
    example: object = None
    answer: Any = None
    answer_example: object = None
    leaf: bool = True
    public: bool = False
    waits: str = ""
    checks_version: bool = False
    mqtt: tuple[str, ...] = ()
    mqtt_down: str | None = None
    methods: tuple[str, ...] = ()
    path: str | None = None
    media_types: tuple[str, ...] = ()
    coap_method: str = ""
    coap_alias: str = ""
    statuses: str = ""
    note: str = ""
    later: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"<message type {self.name}>"

    def __str__(self) -> str:
        return self.name


#: The type of an address that is not in the table: an unknown topic, path or operation.
UNKNOWN = MessageType(name="unknown", title="not understood", direction=Direction.UP)


class Inbound(Struct, frozen=True, kw_only=True, gc=False):
    """One message from a device: its bytes, and the address as the adapter read it.

    Every message makes one of these, so it is a Struct: it costs a fifth of an attrs record, and the garbage collector
    does not track it.

    Attributes:
        type: a row of the table of message types that a device sends.
        subject: the device it is about: the identity itself or one of its leaves.
        payload: the body's bytes, never longer than the message limit.
        content_type: the declared media type without parameters, or None: then the codec looks at the bytes.
        id: the message id where the protocol carries one beside the payload (``Idempotency-Key``, ``?id=``).
        target: the id in the address: the command of a ``command.result``.
        if_version: compare-and-set on the reported section.
        receipt: an id of the server's, for readings that it may submit several times; it counts where the sender gave
            none. A reading without a time has no identity otherwise.
    """

    type: MessageType
    subject: str
    payload: bytes
    content_type: str | None = None
    id: str | None = None
    target: str | None = None
    if_version: int | None = None
    receipt: str | None = None


@frozen
class PointRefusal:
    """Why one reading of a message was refused; ``index`` is its place in the message's list of readings.

    ``reason`` is a sentence with the problem and the remedy, or empty.
    """

    index: int
    metric: str
    code: str
    reason: str = ""


@frozen(kw_only=True)
class Accepted:
    """The message is committed.

    Attributes:
        stored: readings that are in the store now, including those that were there before.
        refused: the readings that were refused, with reasons.
        version, etag: the new version of the changed section, and the entity tag of the whole.
        late: the message came after its time and is recorded as such.
    """

    stored: int = 0
    refused: tuple[PointRefusal, ...] = ()
    version: int | None = None
    etag: str | None = None
    late: bool = False


@frozen(kw_only=True)
class Dropped:
    """The message is valid and deliberately has no effect, such as an outdated will."""

    reason: str


@frozen(kw_only=True)
class Rejected:
    """The message is refused; ``code`` is a key of ``fleetcore.errors.CODES``.

    Attributes:
        pointer: JSON pointer to the invalid place, or empty.
        limit, unit, scope: the exceeded limit, its unit, and what it applies to; set for limits.
        refused: per reading, where every reading was refused.
        version: the current version, for a version conflict.
        retry_after_s: when to try again, for temporary refusals.
    """

    code: str
    reason: str
    pointer: str = ""
    limit: int | None = None
    unit: str | None = None
    scope: str | None = None
    refused: tuple[PointRefusal, ...] = ()
    version: int | None = None
    retry_after_s: float | None = None

    @property
    def temporary(self) -> bool:
        """Whether the same message may succeed later. Such a message is not acknowledged on MQTT."""
        return CODES[self.code].temporary


Outcome = Accepted | Dropped | Rejected


@cache
def accepted(stored: int) -> Accepted:
    """The most frequent outcome, made once per count."""
    return Accepted(stored=stored)


def is_permanent(outcome: Outcome) -> bool:
    """Whether the sender must not send the message again."""
    return not (isinstance(outcome, Rejected) and outcome.temporary)


@frozen(kw_only=True)
class Downlink:
    """One message to a device.

    Attributes:
        body: a JSON object, ready for the wire.
        target: the command's id, for ``command.cancel``.
        expires_ms: milliseconds after which delivering it is useless, or None.
        gateway: the subject's registered gateway, through which a leaf is reached, or None.
    """

    type: MessageType
    subject: str
    body: Mapping[str, object] = field(factory=dict)
    target: str | None = None
    expires_ms: int | None = None
    gateway: str | None = None


@frozen(kw_only=True)
class Reply:
    """The answer to a call: an HTTP status, a JSON body, and the twin versions where it is about a twin.

    Attributes:
        error: the problem (RFC 9457 members) where it is one; the body is empty then.
    """

    status: int = 200
    body: Mapping[str, object] | None = None
    etag: str | None = None
    version: int | None = None
    error: Mapping[str, object] | None = None


@frozen(kw_only=True)
class Request:
    """The context of a message, which its handler gets with the body.

    Attributes:
        identity: the device that sent it.
        subject: the device that it is about: the identity, or a leaf that it speaks for.
        certificate: the key of the certificate that opened the session, or None.
        target, if_version: as in :class:`Inbound`.
    """

    identity: str
    subject: str
    certificate: str | None = None
    target: str = ""
    if_version: int | None = None


#: Handles one message whose body has the type that its row names; it may raise FleetError. An uplink ends in an
#: Outcome, after the commit; a call in a Reply.
Handler = Callable[[Request, Any], Awaitable[Outcome | Reply]]

#: Handles uplinks of one type that have come together, each of another device; returns their outcomes in their order.
JointHandler = Callable[[Sequence[tuple[Request, Any]]], Awaitable[Sequence[Outcome]]]


@frozen(kw_only=True)
class Waiting:
    """How a capability reports what is pending for a device.

    Attributes:
        read: ``read(device, after)`` gives the body that answers a request for it, or None where nothing is pending;
            ``after`` is a version that the device has.
        count: how many are pending, or the pending version; 0 for none.
        unfinished: the downlinks to send to a device that comes back.
    """

    read: Callable[[str, int], Awaitable[Mapping[str, object] | None]]
    count: Callable[[str], Awaitable[int]]
    unfinished: Callable[[str], Awaitable[Sequence[Downlink]]]
