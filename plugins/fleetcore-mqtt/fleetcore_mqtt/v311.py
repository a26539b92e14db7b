"""MQTT 3.1.1 (OASIS, 2014): strict reading of client packets, and writing of server packets.

Section numbers are those of the standard. It has no reason codes after CONNACK, so a refusal is silent or a close.
"""

from collections.abc import Callable, Mapping

from fleetcore_mqtt.framing import varint
from fleetcore_mqtt.packets import (
    PUBACK_HEAD,
    Codec,
    Connect,
    Disconnect,
    Kind,
    Packet,
    PingReq,
    PubAck,
    Publish,
    Reason,
    Subscribe,
    Unsubscribe,
    Violation,
    Welcome,
    Will,
)

#: In 3.1.1 a session that is not clean never expires; here it has this expiry.
SESSION_S = 86_400

# CONNACK return codes, §3.2.2.3.
_RETURN_CODES = {
    Reason.VERSION: 1,
    Reason.CLIENT_ID: 2,
    Reason.UNAVAILABLE: 3,
    Reason.BUSY: 3,
    Reason.SHUTTING_DOWN: 3,
    Reason.BAD_CREDENTIAL: 4,
}
_NOT_AUTHORISED = 5


class Reader:
    """Reads fields from the body of one packet; raises Violation beyond its end."""

    __slots__ = ("at", "data", "end")

    def __init__(self, data: bytes, at: int, end: int) -> None:
        self.data, self.at, self.end = data, at, end

    def byte(self) -> int:
        """One byte."""
        return self._take(1)[0]

    def uint16(self) -> int:
        """Two bytes, big endian."""
        return int.from_bytes(self._take(2), "big")

    def binary(self) -> bytes:
        """Binary data with a length prefix."""
        return self._take(self.uint16())

    def text(self) -> str:
        """An encoded string (§1.5.3)."""
        return as_text(self.binary())

    def packet_id(self) -> int:
        """A packet id, which is never 0 (§2.3.1)."""
        value = self.uint16()
        if not value:
            raise Violation("packet id 0", Reason.PROTOCOL_ERROR)
        return value

    @property
    def left(self) -> int:
        """The unread bytes."""
        return self.end - self.at

    def finish(self) -> None:
        """Raises Violation if bytes are left."""
        if self.at != self.end:
            raise Violation("there are bytes after the last field")

    def _take(self, count: int) -> bytes:
        at = self.at
        self.at = at + count
        if self.at > self.end:
            raise Violation("a field is longer than its packet")
        return self.data[at : self.at]


def as_text(raw: bytes) -> str:
    """UTF-8 without NUL (§1.5.3); Python's strict decoder refuses surrogates."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise Violation("a string is not UTF-8") from error
    if "\0" in text:
        raise Violation("a string contains NUL")
    return text


def read_connect_flags(flags: int) -> tuple[bool, bool, int, bool, bool]:
    """Clean, will, its QoS, password, user name; flags and rules are equal in both versions (§3.1.2.3 to 3.1.2.9)."""
    will, qos, retain = bool(flags & 0x04), flags >> 3 & 3, bool(flags & 0x20)
    if flags & 1:
        raise Violation("the reserved connect flag is set")
    if qos == 3 or (not will and (qos or retain)):
        raise Violation("the will flags contradict each other")
    return bool(flags & 0x02), will, qos, bool(flags & 0x40), bool(flags & 0x80)


def _connect(reader: Reader) -> Connect:
    reader.at += 7  # the connection has read name and level, to choose this codec
    clean, has_will, will_qos, has_password, has_username = read_connect_flags(reader.byte())
    if has_password and not has_username:
        raise Violation("a password without a user name")
    keep_alive = reader.uint16()
    client_id = reader.text()
    will = Will(topic=reader.text(), payload=reader.binary(), qos=will_qos) if has_will else None
    return Connect(
        client_id=client_id,
        clean=clean,
        keep_alive_s=keep_alive,
        expiry_s=0 if clean else SESSION_S,
        username=reader.text() if has_username else None,
        password=reader.binary() if has_password else None,
        will=will,
    )


def _subscribe(reader: Reader) -> Subscribe:
    packet_id, wanted = reader.packet_id(), []
    while reader.left:
        name, qos = reader.text(), reader.byte()
        if qos > 2:
            raise Violation("a subscription with reserved bits")
        wanted.append((name, qos))
    if not wanted:
        raise Violation("a SUBSCRIBE without a filter", Reason.PROTOCOL_ERROR)
    return Subscribe(packet_id, tuple(wanted))


def _unsubscribe(reader: Reader) -> Unsubscribe:
    packet_id, names = reader.packet_id(), []
    while reader.left:
        names.append(reader.text())
    if not names:
        raise Violation("an UNSUBSCRIBE without a filter", Reason.PROTOCOL_ERROR)
    return Unsubscribe(packet_id, tuple(names))


#: First byte, flags included (§2.2.2) → reader. Clients may not send other types.
_READERS: Mapping[int, Callable[[Reader], Packet]] = {
    0x10: _connect,
    0x40: lambda reader: PubAck(reader.packet_id()),
    0x82: _subscribe,
    0xA2: _unsubscribe,
    0xC0: lambda _reader: PingReq(),
    0xE0: lambda _reader: Disconnect(),
}


def split_publish(data: bytes, start: int, at: int, end: int) -> tuple[bytes, bytes | None, int]:
    """Topic, packet id and the place after them, which are the same in both versions."""
    first = data[start]
    behind = at + 2
    if behind > end:
        raise Violation("a PUBLISH without a topic")
    behind += data[at] << 8 | data[at + 1]
    topic = data[at + 2 : behind]
    packet_id = None
    match first & 0x06:
        case 0x02:
            packet_id = data[behind : behind + 2]
            if packet_id == b"\0\0":
                raise Violation("packet id 0", Reason.PROTOCOL_ERROR)
            behind += 2
        case 0x00:
            if first & 0x08:
                raise Violation("DUP at QoS 0")
        case 0x04:
            raise Violation("QoS 2 is not offered: publish at QoS 1", Reason.QOS)
        case _:
            raise Violation("QoS 3")
    if behind > end:
        raise Violation("a PUBLISH is shorter than its fields")
    return topic, packet_id, behind


class V311(Codec):
    """The codec of 3.1.1."""

    version = 4

    def read_publish(self, data: bytes, start: int, at: int, end: int) -> Publish:
        topic, packet_id, behind = split_publish(data, start, at, end)
        return topic, packet_id, data[behind:end], None

    def read(self, data: bytes, start: int, at: int, end: int) -> Packet:
        take = _READERS.get(data[start])
        if take is None:
            raise Violation(f"clients may not send a packet starting with {data[start]:#04x}", Reason.PROTOCOL_ERROR)
        reader = Reader(data, at, end)
        packet = take(reader)
        reader.finish()
        return packet

    def welcome(self, welcome: Welcome) -> bytes:
        return bytes((0x20, 2, welcome.session_present, 0))

    def refuse(self, reason: Reason, text: str = "") -> bytes:  # noqa: ARG002 - no room for it in this version
        return bytes((0x20, 2, 0, _RETURN_CODES.get(reason, _NOT_AUTHORISED)))

    def publish(
        self,
        topic: str,
        payload: bytes,
        packet_id: int | None,
        *,
        expiry_s: int | None,  # noqa: ARG002 - no room for it in this version
        correlation: bytes | None,  # noqa: ARG002 - no room for it in this version
        again: bool = False,
    ) -> bytes:
        name = topic.encode()
        head = len(name).to_bytes(2, "big") + name
        if packet_id is not None:
            head += packet_id.to_bytes(2, "big")
        first = Kind.PUBLISH << 4 | again << 3 | (packet_id is not None) << 1
        return bytes((first,)) + varint(len(head) + len(payload)) + head + payload

    def refuse_publish(self, packet_id: bytes, reason: int, text: str) -> bytes:  # noqa: ARG002 - no room for it
        return PUBACK_HEAD + packet_id

    def suback(self, packet_id: int, codes: list[int]) -> bytes:
        body = packet_id.to_bytes(2, "big") + bytes(min(code, 0x80) for code in codes)
        return b"\x90" + varint(len(body)) + body

    def unsuback(self, packet_id: int, codes: list[int]) -> bytes:  # noqa: ARG002 - no room for it in this version
        return b"\xb0\x02" + packet_id.to_bytes(2, "big")

    def disconnect(self, reason: Reason, text: str = "") -> bytes:  # noqa: ARG002 - 3.1.1 has none for servers
        return b""
