"""Messages from one device: a PUBLISH becomes an Inbound, and its outcome the acknowledgement.

The rules of wire.md §4. Committed: PUBACK. Permanently refused: PUBACK too, with the reason if the version has one, and
a message on ``errors``. Temporarily refused: no answer, reading stops, and it is tried again (:mod:`.retries`). The
plane decides whether the device may send it, so a foreign subject is passed on and audited there.

The common path creates no task and no future.
"""

from collections.abc import Callable
from functools import partial

from attrs import frozen

from fleetcore.errors import CODES
from fleetcore.interfaces import Session
from fleetcore.model.message import UNKNOWN, Accepted, Inbound, MessageType, Outcome, Rejected, Reply
from fleetcore.wire.headers import media_type
from fleetcore.wire.replies import problem, refusal
from fleetcore.wire.times import format_time
from fleetcore_mqtt import topics
from fleetcore_mqtt.bodies import read_request, reply_body, to_json
from fleetcore_mqtt.downlinks import Downlinks
from fleetcore_mqtt.host import Host
from fleetcore_mqtt.packets import PUBACK_HEAD, Codec, Properties, Reason, Violation
from fleetcore_mqtt.retries import REFUSED_S, Retries
from fleetcore_mqtt.stream import Hold, PacketStream
from fleetcore_mqtt.v311 import as_text

#: Distinct topics remembered per connection; besides results of commands a device uses a handful.
TOPICS = 64
#: A longer topic is invalid and is not remembered: the memory of a connection is bounded in bytes.
TOPIC_BYTES = 512


def content_type(declared: str | None, payload: bytes, *, senml: bool) -> str | None:
    """The media type for the core: declared, else from the topic, else None (wire.md §3)."""
    if declared is not None:
        return media_type(declared)
    if not senml:
        return None
    return "application/senml+cbor" if payload[:1] >= b"\x80" else "application/senml+json"


@frozen
class _Known:
    """A topic that this connection has used, with everything that is the same for all its messages.

    ``quick`` is the type if the message goes straight to the data path.
    """

    topic: str
    uplink: topics.Uplink | None
    quick: MessageType | None
    subject: str
    target: str | None
    senml: bool


class Uplinks:
    """Belongs to one open connection."""

    def __init__(
        self, stream: PacketStream, host: Host, codec: Codec, session: Session, downlinks: Downlinks, *, reasons: bool
    ) -> None:
        self._stream, self._host, self._codec, self._session = stream, host, codec, session
        self._downlinks = downlinks
        self._reasons = reasons
        self._message_bytes, self._limit = host.message_bytes, host.in_flight
        self._deliver = host.ingest.deliver
        self._read_publish = codec.read_publish
        self._topics: dict[bytes, _Known] = {}
        self._in_flight: set[bytes] = set()
        #: Messages that the plane handles, in the order in which they came, and their PUBACK once it is known. PUBACKs
        #: go out in this order (MQTT-4.6.0-2), while the plane may be done with a later message first.
        self._answers: dict[bytes, bytes | None] = {}
        self._calls = 0
        self.retries = Retries(stream, host)

    @property
    def busy(self) -> bool:
        """Whether a packet was read and is not answered yet; a temporary refusal is an answer."""
        return self._calls > 0 or len(self._in_flight) > self.retries.count

    def publish(self, data: bytes, start: int, at: int, end: int) -> None:
        """Handles one PUBLISH packet; raises Violation."""
        raw_topic, packet_id, payload, properties = self._read_publish(data, start, at, end)
        known = self._topics.get(raw_topic)
        if known is None:
            known = self._learn(raw_topic)
        if packet_id is not None and not self._enter(packet_id, data[start] & 0x08):
            return
        if known.quick is None or len(payload) > self._message_bytes:
            self._rare(packet_id, known, payload, properties)
            return
        declared = message_id = None
        if properties is not None:
            declared, message_id = properties.content_type, properties.id
        if declared is not None or known.senml:
            declared = content_type(declared, payload, senml=known.senml)
        message = Inbound(
            type=known.quick,
            subject=known.subject,
            payload=payload,
            content_type=declared,
            id=message_id,
            target=known.target,
        )
        self._hand_over(packet_id, known.topic, message)

    def _hand_over(self, packet_id: bytes | None, topic: str, message: Inbound) -> None:
        done = partial(self._done, packet_id, topic, message)
        if packet_id is not None:
            self._answers[packet_id] = None
        if not self._deliver(self._session, message, done) and not self._stream.holds(Hold.PLANE):
            self._stream.hold(Hold.PLANE)
            self._host.spawn(self._await_plane(), "mqtt back-pressure")

    def _rare(self, packet_id: bytes | None, known: _Known, payload: bytes, properties: Properties | None) -> None:
        """Handles calls, refused and unknown messages."""
        topic, uplink = known.topic, known.uplink
        if uplink is None:
            if not topic or "+" in topic or "#" in topic:
                raise Violation("the topic is empty or contains a wildcard", Reason.TOPIC_INVALID)
            self._refuse(packet_id, known, payload, "topic_invalid", "the topic is not below fleet/v1/{device}/")
        elif len(payload) > self._message_bytes:
            limit = self._message_bytes
            message_id = None if properties is None else properties.id
            rejected = Rejected(code="limit_exceeded", reason="too long", limit=limit, unit="bytes", scope="message")
            self._done(packet_id, topic, self._note(known, payload, rejected, message_id), rejected)
        elif uplink.request is not None or uplink.type is not None:
            self._call(packet_id, known, uplink, payload, properties)
        else:
            self._refuse(packet_id, known, payload, "operation_unknown", f"the topic {uplink.name[:64]!r} is unknown")

    def _learn(self, raw: bytes) -> _Known:
        topic = as_text(raw)
        uplink = topics.parse(topic)
        if uplink is None:
            known = _Known(topic, None, None, "", None, False)
        else:
            quick = uplink.type if uplink.type in topics.DELIVERED else None
            known = _Known(topic, uplink, quick, uplink.subject, uplink.target, uplink.senml)
        if len(raw) <= TOPIC_BYTES:
            if len(self._topics) >= TOPICS:
                self._topics.clear()
            self._topics[raw] = known
        return known

    def _enter(self, packet_id: bytes, duplicate: int) -> bool:
        """Adds a QoS 1 message to the bounded table; False if it is already there and was sent again."""
        held = self._in_flight
        if packet_id in held:
            if duplicate:
                return False
            # Acknowledging one of two messages with one id would lose the other.
            raise Violation("a packet id was reused before its PUBACK", Reason.PROTOCOL_ERROR)
        held.add(packet_id)
        if len(held) >= self._limit:
            # 3.1.1 cannot be told the limit, and common clients of version 5 ignore it: reading waits for the
            # acknowledgements instead.
            self._stream.hold(Hold.WINDOW)
        return True

    async def _await_plane(self) -> None:
        try:
            await self._host.ingest.ready()
        finally:
            self._stream.release(Hold.PLANE)

    def _refuse(self, packet_id: bytes | None, known: _Known, payload: bytes, code: str, reason: str) -> None:
        rejected = Rejected(code=code, reason=reason)
        self._done(packet_id, known.topic, self._note(known, payload, rejected), rejected)

    def _note(self, known: _Known, payload: bytes, rejected: Rejected, message_id: str | None = None) -> Inbound:
        """Records a message that is refused here, before the plane gets it."""
        row = known.uplink.type if known.uplink is not None else None
        message = Inbound(
            type=row or UNKNOWN,
            subject=known.subject or self._session.identity,
            payload=payload,
            id=message_id,
            target=known.target if row is not None else known.topic[:TOPIC_BYTES],
        )
        self._host.plane.refused(self._session, message, rejected, protocol=self._host.name)
        return message

    def _done(self, packet_id: bytes | None, topic: str, message: Inbound, outcome: Outcome) -> None:
        """The plane's answer, within its own turn of the loop: nothing is written here, only collected."""
        if self._stream.closed:
            return
        if not isinstance(outcome, Rejected):
            self._acknowledge(packet_id, 0, "")
            if isinstance(outcome, Accepted) and outcome.refused:
                self._complain(problem(outcome, **self._reference(packet_id, topic, message.id)))
        elif outcome.temporary:
            again = partial(self._hand_over, packet_id, topic, message)
            self._stay_silent(packet_id, outcome.retry_after_s, len(message.payload), again)
        else:
            self._acknowledge(packet_id, CODES[outcome.code].mqtt or 0, f"{outcome.code}: {outcome.reason}")
            self._complain(problem(outcome, **self._reference(packet_id, topic, message.id)))

    def _acknowledge(self, packet_id: bytes | None, reason: int, text: str) -> None:
        self.retries.succeeded()
        if packet_id is None:
            return
        if reason:
            # A reason string is for a log line at the device, so it is short.
            answer = self._codec.refuse_publish(packet_id, reason, text[:256] if self._reasons else "")
        else:
            answer = PUBACK_HEAD + packet_id
        if packet_id in self._answers:
            self._answers[packet_id] = answer
            self._send_in_order()
        else:
            self._send(packet_id, answer)

    def _send_in_order(self) -> None:
        """Sends the PUBACKs that no earlier message keeps back."""
        while self._answers:
            packet_id, answer = next(iter(self._answers.items()))
            if answer is None:
                return
            del self._answers[packet_id]
            self._send(packet_id, answer)

    def _send(self, packet_id: bytes, answer: bytes) -> None:
        self._in_flight.discard(packet_id)
        self._stream.release(Hold.WINDOW)
        self._stream.send(answer)

    def _stay_silent(
        self, packet_id: bytes | None, after_s: float | None, size: int, again: Callable[[], None]
    ) -> None:
        if packet_id is not None:
            # Its turn comes with its next try.
            self._answers.pop(packet_id, None)
            self.retries.keep(size, after_s, again)
            self._send_in_order()
            return
        self._host.count("mqtt_temporary_refusal")
        if not self._stream.holds(Hold.THROTTLE):
            # At QoS 0 nothing was promised, so the message is dropped; reading pauses.
            self._stream.hold(Hold.THROTTLE)
            self._host.spawn(self._throttle(after_s or 1.0), "mqtt throttle")

    async def _throttle(self, seconds: float) -> None:
        await self._host.clock.sleep(min(seconds, REFUSED_S))
        self._stream.release(Hold.THROTTLE)

    def _reference(self, packet_id: bytes | None, topic: str, message_id: str | None) -> dict[str, object]:
        out: dict[str, object] = {"topic": topic, "received": format_time(self._host.clock.now_ms())}
        if packet_id is not None:
            out["packet_id"] = int.from_bytes(packet_id, "big")
        if message_id is not None:
            out["id"] = message_id
        return out

    def _complain(self, body: object) -> None:
        self._downlinks.complain(body)

    def _call(
        self,
        packet_id: bytes | None,
        known: _Known,
        uplink: topics.Uplink,
        payload: bytes,
        properties: Properties | None,
    ) -> None:
        """Starts a call that is answered by a message: a request, ``twin/get``, ``time/get``."""
        identity = self._session.identity
        respond = None if properties is None else properties.response_topic
        if respond is not None and not topics.is_own_reply(identity, respond):
            reason = "a response topic must be below the device's own reply/"
            self._refuse(packet_id, known, payload, "topic_invalid", reason)
            return
        self._calls += 1
        if self._calls >= self._limit:
            self._stream.hold(Hold.CALLS)
        if uplink.request is not None:
            own = uplink.subject if uplink.device == identity else identity
            target = respond or topics.below(identity, own, f"reply/{uplink.request}")
            correlation = None if properties is None else properties.correlation
            work = self._request(packet_id, target, known, payload, correlation)
        else:
            again = partial(self._call, packet_id, known, uplink, payload, None)  # nothing below reads the properties
            work = self._ask(packet_id, known.topic, uplink, payload, again)
        self._host.spawn(work, f"mqtt call of {identity}")

    async def _request(
        self, packet_id: bytes | None, target: str, known: _Known, payload: bytes, correlation: bytes | None
    ) -> None:
        message = read_request(payload, known.subject)
        if isinstance(message, Rejected):
            self._called()
            self._note(known, payload, message)
            reply = refusal(message)
        else:
            reply = await self._run(message)
        if not self._stream.closed:
            self._acknowledge(packet_id, 0, "")
            self._downlinks.post(target, to_json(reply_body(reply)), correlation=correlation)

    async def _ask(
        self,
        packet_id: bytes | None,
        topic: str,
        uplink: topics.Uplink,
        payload: bytes,
        again: Callable[[], None],
    ) -> None:
        assert uplink.type is not None
        reply = await self._run(Inbound(type=uplink.type, subject=uplink.subject, payload=payload))
        if self._stream.closed:
            return
        if reply.error is None:
            self._acknowledge(packet_id, 0, "")
            target = topics.answer_topic(self._session.identity, uplink.subject, uplink.type)
            self._downlinks.post(target, to_json(reply.body or {}))
            return
        code = str(reply.error.get("code"))
        known = CODES.get(code, CODES["internal"])
        if known.temporary:
            after_s = reply.error.get("retry_after_s")
            self._stay_silent(packet_id, after_s if isinstance(after_s, int | float) else None, len(payload), again)
        else:
            self._acknowledge(packet_id, known.mqtt or 0, f"{code}: {reply.error.get('detail', known.title)}")
            self._complain({**reply.error, **self._reference(packet_id, topic, None)})

    async def _run(self, message: Inbound) -> Reply:
        try:
            return await self._host.plane.call(self._session, message)
        finally:
            self._called()

    def _called(self) -> None:
        self._calls -= 1
        self._stream.release(Hold.CALLS)
