"""Messages to one device: its subscriptions, what they allow, and the push of everything unfinished."""

from functools import partial

from fleetcore.interfaces import Session
from fleetcore.model.message import Downlink
from fleetcore.wire import messages
from fleetcore_mqtt import topics
from fleetcore_mqtt.bodies import to_json
from fleetcore_mqtt.host import Host
from fleetcore_mqtt.outbox import Message, Outbox
from fleetcore_mqtt.packets import Codec, Reason, Subscribe, Unsubscribe, Violation
from fleetcore_mqtt.sending import sender
from fleetcore_mqtt.sessions import Kept
from fleetcore_mqtt.stream import PacketStream

#: Unacknowledged downlinks to a client; a 3.1.1 client cannot state its limit.
WINDOW = 20
#: Filters of one device; the whole read list twice is 18.
FILTERS = 64
#: The maximum length of a valid filter: the memory of a connection is bounded in bytes.
FILTER_LENGTH = 512

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
        self._listening = 0
        self._unheard: object = None
        self.filters: dict[str, int] = {}
        self.outbox = Outbox(sender(stream, host, codec, packet_bytes), min(window, WINDOW), host.clock.monotonic_s)

    def restore(self, kept: Kept) -> None:
        """Takes over the session of an earlier connection: its unacknowledged messages, then its subscriptions."""
        self.outbox.resume_with(kept.unacked)
        self.filters = dict(kept.filters)
        if self.filters:
            self._listen()

    def subscribe(self, packet: Subscribe) -> None:
        """Answers a SUBSCRIBE: QoS 1 at most, and nothing outside the device's own read list (wire.md §1)."""
        if packet.has_identifier:
            raise Violation("no subscription identifiers were offered", Reason.SUBSCRIPTION_IDS)
        codes: list[int] = []
        for name, qos in packet.filters:
            if not topics.is_filter(name) or len(name) > FILTER_LENGTH:
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
            if self._unheard is not None:
                self.complain(self._unheard)

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
        about: str | None = None,
    ) -> bool:
        """Publishes to the device; False if it has not subscribed. A client for which too much waits is closed."""
        if self._stream.closed:
            return False
        qos = topics.granted(self.filters, topic)
        if qos is None:
            return False
        message = Message(
            topic=topic,
            payload=payload,
            qos=qos,
            expires_s=expires_s,
            replaceable=replaceable,
            correlation=correlation,
            about=about,
        )
        if not self.outbox.put(message):
            self._host.count("mqtt_slow_consumer")
            self._stream.end(Reason.QUOTA, "too many messages wait for this client", will=True)
        return True

    def complain(self, body: object) -> None:
        """Publishes to ``errors``; a device that subscribes to it later gets the latest one then."""
        identity = self._session.identity
        heard = self.post(topics.below(identity, identity, "errors"), to_json(body), replaceable=True)
        self._unheard = None if heard else body

    def _listen(self) -> None:
        """Requests the push of everything unfinished, now and whenever there is something new.

        A later SUBSCRIBE requests it again, for what the first push left out because it was not subscribed to then. The
        number disables an earlier sink, so that nothing is sent twice whatever the plane does with that one.
        """
        self._listening += 1
        self._host.plane.listen(self._session, partial(self._take, self._listening))

    def _take(self, listening: int, downlink: Downlink) -> bool:
        """Publishes an item to the device; False if it has not subscribed to it."""
        topic = topics.downlink_topic(self._session.identity, downlink)
        if listening != self._listening or topic is None:
            return False
        expires_s = None
        if downlink.expires_ms is not None:
            expires_s = self._host.clock.monotonic_s() + downlink.expires_ms / 1000
        return self.post(
            topic,
            to_json(downlink.body),
            expires_s=expires_s,
            replaceable=downlink.type in _REPLACEABLE,
            about=f"{topic} {downlink.body.get('id', '')}" if _is_told_anew(downlink) else None,
        )


def _is_told_anew(downlink: Downlink) -> bool:
    """Whether it is unfinished until the device answers: the plane sends it whenever the device listens."""
    if downlink.type is messages.COMMAND:
        return downlink.body.get("respond") != "none"
    return downlink.type is messages.TWIN_DESIRED or (
        downlink.type is messages.FIRMWARE and downlink.body.get("offer") is not None
    )
