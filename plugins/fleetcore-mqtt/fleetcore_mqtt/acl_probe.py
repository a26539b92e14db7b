"""Probes whether a broker separates devices: which topics a device may use, and above all which it may not.

Behind a broker the device level of a topic identifies the sender, so fleetcore relies on the broker's access list.
Reading the file would show the intent; this shows what the broker does. Mosquitto grants every subscription and checks
its list on delivery, so only delivered messages count.
"""

from collections.abc import Callable, Sequence
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from fleetcore.interfaces.protocol import Finding
from fleetcore.interfaces.provider import TlsProvider
from fleetcore_mqtt import topics
from fleetcore_mqtt.addresses import Address
from fleetcore_mqtt.takeover import take_over

#: The probing id and the impersonated id: devices of no fleet, whose messages mean nothing.
GUEST, OTHER = "fleetcore-doctor", "fleetcore-doctor-2"

_REMEDY = "Write the broker's files again: fleetcore mqtt broker-config"


class _AclProbe:
    """Subscribes to everything it may, publishes what it may not, and records what arrives.

    Args:
        send: publishes to these topics, in order, over fleetcore's own connection.
    """

    def __init__(self, send: Callable[[Sequence[str]], None]) -> None:
        self._send = send
        self.own = topics.below(GUEST, GUEST, "commands")
        self.foreign = [topics.below(OTHER, OTHER, "commands"), topics.below(OTHER, GUEST, "commands")]
        self.forbidden = [topics.below(OTHER, OTHER, "telemetry"), topics.below(OTHER, GUEST, "telemetry"), self.own]
        self.arrived: list[str] = []
        self.accepted: list[str] = []
        self._waiting: dict[int | None, str] = {}

    def __call__(self, client: paho.Client) -> None:
        client.on_subscribe = self._subscribed
        client.on_message = self._message
        client.on_publish = self._published
        client.subscribe([(name, 1) for name in (self.own, *self.foreign, "fleet/v1/+/commands", "fleet/v1/#")])

    def _subscribed(self, client: paho.Client, _data: Any, _mid: int, _codes: Any, _more: Any) -> None:
        properties: Any = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho is not typed here
        properties.MessageExpiryInterval = 1
        for name in self.forbidden:
            self._waiting[client.publish(name, b"{}", qos=1, properties=properties).mid] = name

    def _published(self, _client: paho.Client, _data: Any, mid: int, reason: Any, _more: Any) -> None:
        name = self._waiting.pop(mid)
        if not reason.is_failure:
            self.accepted.append(name)
        if not self._waiting:
            # Its own topic comes last: when that message has arrived, the others would have too.
            self._send([*self.foreign, self.own])

    def _message(self, client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        self.arrived.append(message.topic)
        if message.topic == self.own and not self._waiting:
            client.disconnect()

    def finding(self, place: str) -> Finding:
        """The problem that was found, or the result that all is well."""
        loose = sorted({*self.accepted, *(name for name in self.arrived if name != self.own)})
        if loose:
            detail = f"{place} lets a device use topics that are not its own: {', '.join(loose)}"
        elif self.own not in self.arrived:
            detail = f"{place} does not let a device use its topics"
        else:
            tried = len(self.foreign) + len(self.forbidden) + 1
            return Finding(state="ok", what="broker access", detail=f"{place} separates devices: {tried} topics tried")
        return Finding(state="problem", what="broker access", detail=detail, remedy=_REMEDY)


def examine(address: Address, tls: TlsProvider, send: Callable[[Sequence[str]], None]) -> Finding:
    """Probes the broker; blocking. ``send`` is that of :class:`_AclProbe`."""
    trial = _AclProbe(send)
    place = f"{address.host}:{address.port}"
    if not take_over(address, tls, GUEST, trial):
        detail = f"{place} refuses a device with a certificate of this fleet"
        return Finding(state="problem", what="broker access", detail=detail, remedy=_REMEDY)
    return trial.finding(place)
