"""A connection with a batch's claim certificate: enrolment requests and their replies, and nothing else.

It takes the place of :mod:`.uplinks` and :mod:`.downlinks`. All devices of a batch share the claim certificate, so
several connections may use it, and none takes over from another. It may be stolen, so the connections are limited in
number, in time and in requests. One request at a time: reading waits for its reply, which bounds the rest. Refused
messages are acknowledged, counted and recorded; ``errors`` cannot be read here.
"""

from collections.abc import Callable
from secrets import token_hex

from fleetcore.errors import CODES
from fleetcore.interfaces import ClaimSession
from fleetcore.listening.applicants import CONNECTED_S, MESSAGES
from fleetcore.model.message import Rejected
from fleetcore.wire.replies import refusal
from fleetcore_mqtt import topics
from fleetcore_mqtt.bodies import read_request, reply_body, to_json
from fleetcore_mqtt.framing import CONNECT_BYTES
from fleetcore_mqtt.host import Host
from fleetcore_mqtt.outbox import Message, Outbox
from fleetcore_mqtt.packets import (
    PINGRESP,
    PUBACK_HEAD,
    Codec,
    Connect,
    Disconnect,
    PingReq,
    PubAck,
    Reason,
    Subscribe,
    Unsubscribe,
    Violation,
    Welcome,
)
from fleetcore_mqtt.sending import sender
from fleetcore_mqtt.stream import Hold, PacketStream
from fleetcore_mqtt.v311 import as_text

FILTERS = 8
#: Replies that the client has not acknowledged yet.
WINDOW = 8

_REFUSAL = "a claim certificate can only enrol devices"


class ClaimConnection:
    """Belongs to one open connection; answers its CONNECT. ``leave`` handles the client's DISCONNECT."""

    def __init__(
        self,
        stream: PacketStream,
        host: Host,
        codec: Codec,
        session: ClaimSession,
        connect: Connect,
        leave: Callable[[Disconnect], None],
    ) -> None:
        self._stream, self._host, self._codec, self._session, self._leave = stream, host, codec, session, leave
        self._reasons = connect.reasons
        self._filters: dict[str, int] = {}
        self._messages = 0
        send = sender(stream, host, codec, connect.packet_bytes)
        self._outbox = Outbox(send, min(connect.receive_maximum, WINDOW), host.clock.monotonic_s)
        self.busy = False
        self.until_s = host.clock.monotonic_s() + CONNECTED_S
        host.claimants.enter(session.name)
        stream.send(
            codec.welcome(
                Welcome(
                    session_present=False,
                    assigned_id=None if connect.client_id else f"{session.name}:{token_hex(8)}",
                    keep_alive_s=None,
                    expiry_s=0 if connect.expiry_s else None,
                    receive_maximum=1,
                    packet_bytes=CONNECT_BYTES,
                )
            )
        )

    def lost(self) -> None:
        """Called when the transport is closed."""
        self._host.claimants.leave(self._session.name)
        self._session.close()

    def packet(self, data: bytes, start: int, at: int, end: int) -> None:
        """Handles one packet; raises Violation."""
        if data[start] & 0xF0 == 0x30:
            self._publish(data, start, at, end)
            return
        match self._codec.read(data, start, at, end):
            case PubAck(packet_id):
                self._outbox.acknowledged(packet_id)
            case PingReq():
                self._stream.send(PINGRESP)
            case Subscribe() as packet:
                self._subscribe(packet)
            case Unsubscribe() as packet:
                codes = [
                    int(Reason.SUCCESS if self._filters.pop(name, None) is not None else Reason.NO_SUBSCRIPTION)
                    for name in packet.filters
                ]
                self._stream.send(self._codec.unsuback(packet.packet_id, codes))
            case Disconnect() as packet:
                self._leave(packet)
            case Connect():
                raise Violation("a second CONNECT", Reason.PROTOCOL_ERROR)

    def _spend(self) -> None:
        self._messages += 1
        if self._messages > MESSAGES:
            raise Violation("one connection with a claim certificate may send no more requests", Reason.QUOTA)

    def _subscribe(self, packet: Subscribe) -> None:
        if packet.has_identifier:
            raise Violation("no subscription identifiers were offered", Reason.SUBSCRIPTION_IDS)
        self._spend()
        codes: list[int] = []
        for name, qos in packet.filters:
            if not topics.is_filter(name):
                codes.append(Reason.FILTER_INVALID)
            elif not topics.may_claim_subscribe(self._session.name, name):
                self._deny("subscribe", name)
                codes.append(Reason.NOT_AUTHORISED)
            elif len(self._filters) >= FILTERS and name not in self._filters:
                codes.append(Reason.QUOTA)
            else:
                self._filters[name] = min(qos, 1)
                codes.append(min(qos, 1))
        self._stream.send(self._codec.suback(packet.packet_id, codes))

    def _publish(self, data: bytes, start: int, at: int, end: int) -> None:
        raw, packet_id, payload, properties = self._codec.read_publish(data, start, at, end)
        self._spend()
        topic, name = as_text(raw), self._session.name
        if not topic or "+" in topic or "#" in topic:
            raise Violation("the topic is empty or contains a wildcard", Reason.TOPIC_INVALID)
        request = topics.claim_request(name, topic)
        respond = None if properties is None else properties.response_topic
        if request is None or (respond is not None and not topics.is_claim_reply(name, respond)):
            self._deny("publish", topic if request is None else respond or "")
            self._acknowledge(packet_id, CODES["not_authorised"].mqtt or 0, f"not_authorised: {_REFUSAL}")
            return
        target = respond or f"fleet/v1/{name}/reply/{request}"
        correlation = None if properties is None else properties.correlation
        self.busy = True
        self._stream.hold(Hold.CALLS)
        self._host.spawn(self._answer(packet_id, payload, target, correlation), f"mqtt call of {name}")

    async def _answer(self, packet_id: bytes | None, payload: bytes, target: str, correlation: bytes | None) -> None:
        try:
            message = read_request(payload, self._session.name)
            if isinstance(message, Rejected):
                reply = refusal(message)
            else:
                reply = await self._session.call(message)
            if not self._stream.closed:
                self._acknowledge(packet_id, 0, "")
                self._post(target, to_json(reply_body(reply)), correlation)
        finally:
            self.busy = False
            self._stream.release(Hold.CALLS)

    def _deny(self, what: str, topic: str) -> None:
        self._host.count("mqtt_claim_refused")
        self._session.denied(what, "not_authorised", topic=topic[:200])

    def _acknowledge(self, packet_id: bytes | None, reason: int, text: str) -> None:
        if packet_id is not None and reason:
            self._stream.send(self._codec.refuse_publish(packet_id, reason, text if self._reasons else ""))
        elif packet_id is not None:
            self._stream.send(PUBACK_HEAD + packet_id)

    def _post(self, topic: str, payload: bytes, correlation: bytes | None) -> None:
        qos = topics.granted(self._filters, topic)
        if qos is not None:
            self._outbox.put(Message(topic=topic, payload=payload, qos=qos, correlation=correlation))
