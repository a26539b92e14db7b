"""MQTT packets independent of the version: records for the connection, and the interface of both codecs.

A codec has no state and does not use the network; :mod:`.framing` finds the packet bounds first.
"""

from abc import ABC, abstractmethod
from enum import IntEnum

from attrs import field, frozen


class Kind(IntEnum):
    """Control packet types (MQTT 5.0 §2.1.2)."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14
    AUTH = 15


class Reason(IntEnum):
    """The reason codes that the endpoint uses (MQTT 5.0 §2.4)."""

    SUCCESS = 0x00
    WITH_WILL = 0x04
    NO_SUBSCRIPTION = 0x11
    UNSPECIFIED = 0x80
    MALFORMED = 0x81
    PROTOCOL_ERROR = 0x82
    VERSION = 0x84
    CLIENT_ID = 0x85
    BAD_CREDENTIAL = 0x86
    NOT_AUTHORISED = 0x87
    UNAVAILABLE = 0x88
    BUSY = 0x89
    SHUTTING_DOWN = 0x8B
    AUTHENTICATION_METHOD = 0x8C
    KEEP_ALIVE = 0x8D
    TAKEN_OVER = 0x8E
    FILTER_INVALID = 0x8F
    TOPIC_INVALID = 0x90
    RECEIVE_MAXIMUM = 0x93
    TOPIC_ALIAS = 0x94
    TOO_LARGE = 0x95
    QUOTA = 0x97
    ADMINISTRATIVE = 0x98
    QOS = 0x9B
    CONNECT_TIME = 0xA0
    SUBSCRIPTION_IDS = 0xA1


class Violation(Exception):
    """The peer violated the protocol; ``reason`` says how, and the connection ends."""

    def __init__(self, message: str, reason: Reason = Reason.MALFORMED) -> None:
        super().__init__(message)
        self.reason = reason


@frozen(kw_only=True)
class Will:
    """The message published if the connection ends without a DISCONNECT."""

    topic: str
    payload: bytes
    qos: int
    content_type: str | None = None
    id: str | None = None
    delay_s: int = 0


@frozen(kw_only=True)
class Connect:
    """A CONNECT. ``expiry_s`` is how long the session outlives the connection."""

    client_id: str
    clean: bool
    keep_alive_s: int
    expiry_s: int
    username: str | None = None
    password: bytes | None = field(default=None, repr=False)
    will: Will | None = None
    receive_maximum: int = 65_535
    packet_bytes: int | None = None
    reasons: bool = True
    authentication_method: str | None = None


@frozen
class Properties:
    """The properties of a version 5 PUBLISH."""

    content_type: str | None
    id: str | None
    response_topic: str | None
    correlation: bytes | None


@frozen
class PubAck:
    """An acknowledgement from the client, by packet id."""

    packet_id: int


@frozen
class Subscribe:
    """Topic filters with the requested QoS, in the packet's order."""

    packet_id: int
    filters: tuple[tuple[str, int], ...]
    has_identifier: bool = False


@frozen
class Unsubscribe:
    """Topic filters to remove."""

    packet_id: int
    filters: tuple[str, ...]


@frozen
class PingReq:
    """The client's keep-alive request."""


@frozen
class Disconnect:
    """The client leaves; ``reason`` 0x04 asks for its will to be published."""

    reason: int = 0
    expiry_s: int | None = None


Packet = Connect | PubAck | Subscribe | Unsubscribe | PingReq | Disconnect

#: Topic, packet id (two bytes, None at QoS 0), payload, properties (None without any). A plain tuple: one is made
#: for every message.
Publish = tuple[bytes, bytes | None, bytes, Properties | None]

PINGRESP = b"\xd0\x00"
PUBACK_HEAD = b"\x40\x02"


@frozen(kw_only=True)
class Welcome:
    """The content of a successful CONNACK; 3.1.1 only has ``session_present``. ``reason`` is for people."""

    session_present: bool
    assigned_id: str | None
    keep_alive_s: int | None
    expiry_s: int | None
    receive_maximum: int
    packet_bytes: int
    reason: str = ""


class Codec(ABC):
    """One version of the protocol. ``data[start:end]`` is one packet; its variable header begins at ``at``.

    Every ``read`` raises :class:`Violation` for what the version forbids, and no other error.
    """

    version: int

    @abstractmethod
    def read_publish(self, data: bytes, start: int, at: int, end: int) -> Publish:
        """A PUBLISH. The topic is not checked to be text yet: that is done once per topic, not per message."""

    @abstractmethod
    def read(self, data: bytes, start: int, at: int, end: int) -> Packet:
        """Any other packet that a client may send."""

    @abstractmethod
    def welcome(self, welcome: Welcome) -> bytes:
        """The CONNACK of an accepted connection."""

    @abstractmethod
    def refuse(self, reason: Reason, text: str = "") -> bytes:
        """The CONNACK of a refused connection."""

    @abstractmethod
    def publish(
        self,
        topic: str,
        payload: bytes,
        packet_id: int | None,
        *,
        expiry_s: int | None,
        correlation: bytes | None,
        again: bool = False,
    ) -> bytes:
        """A PUBLISH to the client: QoS 1 with a packet id, QoS 0 without; ``again`` if it was sent before."""

    @abstractmethod
    def refuse_publish(self, packet_id: bytes, reason: int, text: str) -> bytes:
        """The PUBACK of a permanently refused message; 3.1.1 can only acknowledge it."""

    @abstractmethod
    def suback(self, packet_id: int, codes: list[int]) -> bytes:
        """Granted QoS, or a reason code, per filter."""

    @abstractmethod
    def unsuback(self, packet_id: int, codes: list[int]) -> bytes:
        """A reason code per filter, if the version has them."""

    @abstractmethod
    def disconnect(self, reason: Reason, text: str = "") -> bytes:
        """The server's DISCONNECT; empty in 3.1.1, which has none."""
