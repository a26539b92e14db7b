"""Whether a broker keeps devices apart, found out by trying: what a device may, and above all what it may not.

Behind a broker the device level of a topic stands for the credential, so the broker's access list is fleetcore's own
door. Reading the file would show the intent; this shows what the broker does. Mosquitto grants every
subscription and looks at its list when it delivers, so what counts is what arrives.
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

#: Who tries, and whom it tries to be: no devices of any fleet, and their messages mean nothing.
GUEST, OTHER = "fleetcore-doctor", "fleetcore-doctor-2"

_REMEDY = "Write the broker's files anew: fleetcore mqtt broker-config"


class _AclProbe:
    """Listens to all it is given, says what it may not, and keeps what came through.

    Args:
        send: has fleetcore's own connection publish to these topics, in this order.
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
            # The own one comes last: when it is there, the others would be.
            self._send([*self.foreign, self.own])

    def _message(self, client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        self.arrived.append(message.topic)
        if message.topic == self.own and not self._waiting:
            client.disconnect()

    def finding(self, place: str) -> Finding:
        """What is wrong, or that nothing is."""
        loose = sorted({*self.accepted, *(name for name in self.arrived if name != self.own)})
        if loose:
            detail = f"{place} lets a device use topics that are not its own: {', '.join(loose)}"
        elif self.own not in self.arrived:
            detail = f"{place} does not let a device use its own topics"
        else:
            tried = len(self.foreign) + len(self.forbidden) + 1
            return Finding(
                state="ok", what="broker access", detail=f"{place} keeps devices apart: {tried} topics tried"
            )
        return Finding(state="problem", what="broker access", detail=detail, remedy=_REMEDY)


def examine(address: Address, tls: TlsProvider, send: Callable[[Sequence[str]], None]) -> Finding:
    """Tries the broker; blocking. ``send`` as for :class:`_AclProbe`."""
    trial = _AclProbe(send)
    place = f"{address.host}:{address.port}"
    if not take_over(address, tls, GUEST, trial):
        detail = f"{place} does not let a device in that has a certificate of this fleet"
        return Finding(state="problem", what="broker access", detail=detail, remedy=_REMEDY)
    return trial.finding(place)
