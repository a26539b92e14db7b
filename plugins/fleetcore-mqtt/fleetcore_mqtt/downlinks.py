"""What goes to one device: its subscriptions, what they let through, and the push of all that is unfinished."""

from collections.abc import Mapping
from functools import partial
from math import ceil

from fleetcore.interfaces import Session
from fleetcore.model.message import Downlink
from fleetcore.wire import messages
from fleetcore_mqtt import topics
from fleetcore_mqtt.bodies import to_json
from fleetcore_mqtt.host import Host
from fleetcore_mqtt.outbox import Message, Outbox
from fleetcore_mqtt.packets import Codec, Reason, Subscribe, Unsubscribe, Violation
from fleetcore_mqtt.stream import PacketStream

#: Unacknowledged downlinks towards a client; a 3.1.1 client cannot say how many it can take.
WINDOW = 20
#: Filters of one device; the whole read list twice is 18.
FILTERS = 64

_REPLACEABLE = frozenset({messages.TWIN_DESIRED, messages.ERRORS, messages.TIME})


class Downlinks:
    """Belongs to one open connection. A downlink that the device has not subscribed to is not sent."""

    def __init__(
        self,
        stream: PacketStream,
        host: Host,
        codec: Codec,
        session: Session,
        *,
        window: int,
        packet_bytes: int | None,
    ) -> None:
        self._stream, self._host, self._codec, self._session = stream, host, codec, session
        self._packet_bytes = packet_bytes
        self._listening = 0
        self.filters: dict[str, int] = {}
        self.outbox = Outbox(self._send, min(window, WINDOW), host.clock.monotonic_s)

    def restore(self, filters: Mapping[str, int]) -> None:
        """Takes up the subscriptions of an earlier connection."""
        self.filters = dict(filters)
        if self.filters:
            self._listen()

    def subscribe(self, packet: Subscribe) -> None:
        """Answers a SUBSCRIBE: QoS 1 at most, and nothing beyond the device's own read list (wire.md §1)."""
        if packet.has_identifier:
            raise Violation("no subscription identifiers were offered", Reason.SUBSCRIPTION_IDS)
        codes: list[int] = []
        for name, qos in packet.filters:
            if not topics.is_filter(name):
                codes.append(Reason.FILTER_INVALID)
            elif not topics.may_subscribe(self._session.identity, name):
                self._host.count("mqtt_subscription_refused")
                codes.append(Reason.NOT_AUTHORISED)
            elif len(self.filters) >= FILTERS and name not in self.filters:
                codes.append(Reason.QUOTA)
            else:
                self.filters[name] = min(qos, 1)
                codes.append(min(qos, 1))
        self._stream.send(self._codec.suback(packet.packet_id, codes))
        if any(code <= 1 for code in codes):
            self._listen()

    def unsubscribe(self, packet: Unsubscribe) -> None:
        """Answers an UNSUBSCRIBE."""
        codes = [
            int(Reason.SUCCESS if self.filters.pop(name, None) is not None else Reason.NO_SUBSCRIPTION)
            for name in packet.filters
        ]
        self._stream.send(self._codec.unsuback(packet.packet_id, codes))

    def post(
        self,
        topic: str,
        payload: bytes,
        *,
        expires_s: float | None = None,
        replaceable: bool = False,
        correlation: bytes | None = None,
    ) -> None:
        """Publishes to the device where it has subscribed; a client that lets too much wait is closed."""
        if self._stream.closed:
            return
        qos = max((granted for name, granted in self.filters.items() if topics.matches(name, topic)), default=None)
        if qos is None:
            return
        message = Message(
            topic=topic,
            payload=payload,
            qos=qos,
            expires_s=expires_s,
            replaceable=replaceable,
            correlation=correlation,
        )
        if not self.outbox.put(message):
            self._host.count("mqtt_slow_consumer")
            self._stream.end(Reason.QUOTA, "too much waits for this client", will=True)

    def _listen(self) -> None:
        """Has all that is unfinished pushed, now and whenever something comes up.

        A later SUBSCRIBE asks again, for what the first push left out because nobody had subscribed to it then. The
        number makes an earlier sink fall silent, so that nothing comes twice whatever the plane does with that one.
        """
        self._listening += 1
        self._host.plane.listen(self._session, partial(self._take, self._listening))

    def _take(self, listening: int, downlink: Downlink) -> None:
        topic = topics.downlink_topic(self._session.identity, downlink)
        if listening != self._listening or topic is None:
            return
        expires_s = None
        if downlink.expires_ms is not None:
            expires_s = self._host.clock.monotonic_s() + downlink.expires_ms / 1000
        self.post(topic, to_json(downlink.body), expires_s=expires_s, replaceable=downlink.type in _REPLACEABLE)

    def _send(self, message: Message, packet_id: int | None) -> bool:
        expiry_s = None
        if message.expires_s is not None:
            expiry_s = max(1, ceil(message.expires_s - self._host.clock.monotonic_s()))
        packet = self._codec.publish(
            message.topic, message.payload, packet_id, expiry_s=expiry_s, correlation=message.correlation
        )
        if self._packet_bytes is not None and len(packet) > self._packet_bytes:
            # MQTT 5.0 §3.1.2.11.4: as if it had been delivered.
            self._host.count("mqtt_downlink_too_large")
            return False
        self._stream.send(packet)
        return True
