"""Encodes a publication for a client, a device or a claimant; leaves out too large ones."""

from collections.abc import Callable
from math import ceil

from fleetcore_mqtt.host import Host
from fleetcore_mqtt.outbox import Message
from fleetcore_mqtt.packets import Codec
from fleetcore_mqtt.stream import PacketStream


def sender(
    stream: PacketStream, host: Host, codec: Codec, packet_bytes: int | None
) -> Callable[[Message, int | None, bool], bool]:
    """The ``send`` of an :class:`Outbox`: a packet larger than ``packet_bytes`` is left out and counted."""

    def send(message: Message, packet_id: int | None, again: bool) -> bool:
        expiry_s = None
        if message.expires_s is not None:
            expiry_s = max(1, ceil(message.expires_s - host.clock.monotonic_s()))
        packet = codec.publish(
            message.topic,
            message.payload,
            packet_id,
            expiry_s=expiry_s,
            correlation=message.correlation,
            again=again,
        )
        if packet_bytes is not None and len(packet) > packet_bytes:
            # MQTT 5.0 §3.1.2.11.4: as if it had been delivered.
            host.count("mqtt_downlink_too_large")
            return False
        stream.send(packet)
        return True

    return send
