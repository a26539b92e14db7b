"""MQTT 5 (OASIS, 2019): decoded and encoded by the ``mqtt5`` library, with additional checks.

The library accepts NUL in strings, packet id 0, an empty SUBSCRIBE and reserved flags, and panics on a string that is
not UTF-8, with a page on stderr for each: so every string is checked before the library reads it. A PUBLISH without
properties, the common one, is decoded only here.
"""

from typing import Final

import mqtt5
from mqtt5 import (
    ConnAckPacket,
    ConnAckReasonCode,
    DisconnectPacket,
    DisconnectReasonCode,
    PubAckPacket,
    PubAckReasonCode,
    PublishPacket,
    QoS,
    SubAckPacket,
    SubAckReasonCode,
    UnsubAckPacket,
    UnsubAckReasonCode,
)

from fleetcore_mqtt.packets import (
    PUBACK_HEAD,
    Codec,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    Properties,
    PubAck,
    Publish,
    Reason,
    Subscribe,
    Unsubscribe,
    Violation,
    Welcome,
    Will,
)
from fleetcore_mqtt.v311 import Reader, as_text, read_connect_flags, split_publish

# Property identifiers by the form of their values (§2.2.2.2).
_TEXT: Final = frozenset({0x03, 0x08, 0x12, 0x15, 0x1A, 0x1C, 0x1F})
_BINARY: Final = frozenset({0x09, 0x16})
_FIXED: Final = {
    **dict.fromkeys((0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A), 1),
    **dict.fromkeys((0x13, 0x21, 0x22, 0x23), 2),
    **dict.fromkeys((0x02, 0x11, 0x18, 0x27), 4),
}
_SUBSCRIPTION_ID, _USER = 0x0B, 0x26

#: A longer message id is invalid (names.py), and stays invalid when cut: memory is bounded by its payload.
_ID_LENGTH: Final = 128

_AT_LEAST_ONCE, _AT_MOST_ONCE = QoS.AT_LEAST_ONCE, QoS.AT_MOST_ONCE


def _varint(reader: Reader) -> int:
    value = 0
    for shift in (0, 7, 14, 21):
        byte = reader.byte()
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
    raise Violation("a variable byte integer has more than four bytes")


def _check_properties(reader: Reader) -> None:
    end = _varint(reader) + reader.at
    if end > reader.end:
        raise Violation("properties are longer than their packet")
    inner = Reader(reader.data, reader.at, end)
    while inner.left:
        kind = inner.byte()
        if kind in _TEXT:
            inner.text()
        elif kind == _USER:
            inner.text()
            inner.text()
        elif kind in _BINARY:
            inner.binary()
        elif kind == _SUBSCRIPTION_ID:
            _varint(inner)
        elif kind in _FIXED:
            for _ in range(_FIXED[kind]):
                inner.byte()
        else:
            raise Violation(f"property {kind:#04x} does not exist")
    reader.at = end


def _check(reader: Reader, first: int) -> None:
    """Raises Violation for what the library would accept or panic on."""
    match first >> 4:
        case 1:
            reader.at += 7
            _clean, will, _qos, has_password, has_username = read_connect_flags(reader.byte())
            reader.uint16()
            _check_properties(reader)
            reader.text()
            if will:
                _check_properties(reader)
                reader.text()
                reader.binary()
            if has_username:
                reader.text()
            if has_password:
                reader.binary()
        case 4:
            reader.packet_id()
            _check_acknowledgement(reader)
        case 8:
            reader.packet_id()
            _check_properties(reader)
            if not reader.left:
                raise Violation("a SUBSCRIBE without a filter", Reason.PROTOCOL_ERROR)
            while reader.left:
                reader.text()
                if reader.byte() & 0xC0:
                    raise Violation("a subscription with reserved bits")
        case 10:
            reader.packet_id()
            _check_properties(reader)
            if not reader.left:
                raise Violation("an UNSUBSCRIBE without a filter", Reason.PROTOCOL_ERROR)
            while reader.left:
                reader.text()
        case 12:
            pass
        case 14:
            _check_acknowledgement(reader)
        case _:
            raise Violation(f"clients may not send a packet starting with {first:#04x}", Reason.PROTOCOL_ERROR)
    reader.finish()


def _check_acknowledgement(reader: Reader) -> None:
    """A reason code and properties, both optional (§3.4.2)."""
    if reader.left:
        reader.byte()
    if reader.left:
        _check_properties(reader)


def _library_read(packet: bytes) -> mqtt5.Packet:
    try:
        decoded, _length = mqtt5.read(memoryview(packet))
    except (ValueError, IndexError) as error:
        raise Violation(str(error)) from error
    except BaseException as error:
        # The library's panic derives from BaseException and cannot be imported. No known input causes one after the
        # checks above; a new one must not end the process either.
        if type(error).__name__ != "PanicException":
            raise
        raise Violation("the packet cannot be read") from error
    return decoded


def _message_id(user_properties: list[tuple[str, str]]) -> str | None:
    for name, value in user_properties:
        if name == "id":
            return value[:_ID_LENGTH]
    return None


class V5(Codec):
    """The codec of version 5."""

    version = 5

    def read_publish(self, data: bytes, start: int, at: int, end: int) -> Publish:
        topic, packet_id, behind = split_publish(data, start, at, end)
        if behind < end and not data[behind]:
            return topic, packet_id, data[behind + 1 : end], None
        as_text(topic)
        _check_properties(Reader(data, behind, end))
        packet = _library_read(data[start:end])
        assert isinstance(packet, PublishPacket)
        if packet.topic_alias is not None:
            raise Violation("no topic alias was offered", Reason.TOPIC_ALIAS)
        if packet.subscription_ids:
            raise Violation("a client's PUBLISH must not have a subscription identifier", Reason.PROTOCOL_ERROR)
        properties = Properties(
            packet.content_type, _message_id(packet.user_properties), packet.response_topic, packet.correlation_data
        )
        return topic, packet_id, packet.payload, properties

    def read(self, data: bytes, start: int, at: int, end: int) -> Packet:
        _check(Reader(data, at, end), data[start])
        match _library_read(data[start:end]):
            case mqtt5.ConnectPacket() as connect:
                return _connect(connect)
            case mqtt5.PubAckPacket() as ack:
                return PubAck(ack.packet_id)
            case mqtt5.SubscribePacket() as subscribe:
                wanted = tuple((each.pattern, int(each.max_qos)) for each in subscribe.topic_filters)
                return Subscribe(subscribe.packet_id, wanted, subscribe.subscription_id is not None)
            case mqtt5.UnsubscribePacket() as unsubscribe:
                return Unsubscribe(unsubscribe.packet_id, tuple(unsubscribe.patterns))
            case mqtt5.PingReqPacket():
                return PingReq()
            case mqtt5.DisconnectPacket() as leaving:
                return Disconnect(int(leaving.reason_code), leaving.session_expiry_interval)
            case other:
                raise Violation(f"clients may not send {type(other).__name__}", Reason.PROTOCOL_ERROR)

    def welcome(self, welcome: Welcome) -> bytes:
        return ConnAckPacket(
            session_present=welcome.session_present,
            assigned_client_id=welcome.assigned_id,
            server_keep_alive=welcome.keep_alive_s,
            session_expiry_interval=welcome.expiry_s,
            receive_max=welcome.receive_maximum,
            max_packet_size=welcome.packet_bytes,
            max_qos=_AT_LEAST_ONCE,
            retain_available=False,
            shared_subscription_available=False,
            subscription_id_available=False,
            reason_str=welcome.reason or None,
        ).write()

    def refuse(self, reason: Reason, text: str = "") -> bytes:
        if reason is Reason.SHUTTING_DOWN:
            reason = Reason.UNAVAILABLE  # the other is only for a DISCONNECT (§3.2.2.2)
        return ConnAckPacket(reason_code=ConnAckReasonCode(reason), reason_str=text or None).write()

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
        return PublishPacket(
            topic,
            payload,
            qos=_AT_MOST_ONCE if packet_id is None else _AT_LEAST_ONCE,
            packet_id=packet_id,
            duplicate=again,
            message_expiry_interval=expiry_s,
            correlation_data=correlation,
            content_type="application/json",
        ).write()

    def refuse_publish(self, packet_id: bytes, reason: int, text: str) -> bytes:
        if not reason:
            return PUBACK_HEAD + packet_id
        number = int.from_bytes(packet_id, "big")
        return PubAckPacket(number, reason_code=PubAckReasonCode(reason), reason_str=text or None).write()

    def suback(self, packet_id: int, codes: list[int]) -> bytes:
        return SubAckPacket(packet_id, [SubAckReasonCode(code) for code in codes]).write()

    def unsuback(self, packet_id: int, codes: list[int]) -> bytes:
        return UnsubAckPacket(packet_id, [UnsubAckReasonCode(code) for code in codes]).write()

    def disconnect(self, reason: Reason, text: str = "") -> bytes:
        return DisconnectPacket(reason_code=DisconnectReasonCode(reason), reason_str=text or None).write()


def _connect(connect: mqtt5.ConnectPacket) -> Connect:
    will = connect.will
    return Connect(
        client_id=connect.client_id,
        clean=connect.clean_start,
        keep_alive_s=connect.keep_alive,
        expiry_s=connect.session_expiry_interval,
        username=connect.username,
        password=connect.password,
        will=None
        if will is None
        else Will(
            topic=will.topic,
            payload=will.payload or b"",
            qos=int(will.qos),
            content_type=will.content_type,
            id=_message_id(will.user_properties),
            delay_s=will.will_delay_interval,
        ),
        receive_maximum=connect.receive_max,
        packet_bytes=connect.max_packet_size,
        reasons=connect.request_problem_info,
        authentication_method=connect.authentication_method,
    )
