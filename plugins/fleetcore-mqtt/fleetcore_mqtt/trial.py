"""Whether a broker keeps devices apart, found out by trying: what a device may, and above all what it may not.

Behind a broker the device level of a topic stands for the credential, so the broker's access list is fleetcore's own
door. Reading the file would show what somebody wrote; this shows what the broker does.
"""

from collections.abc import Sequence
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from fleetcore.interfaces.protocol import Finding
from fleetcore.interfaces.provider import TlsProvider
from fleetcore_mqtt import topics
from fleetcore_mqtt.addresses import Address
from fleetcore_mqtt.guest import visit

#: Who tries, and whom it tries to be: no devices of any fleet, and their messages mean nothing.
GUEST, OTHER = "fleetcore-doctor", "fleetcore-doctor-2"

_REMEDY = "Write the broker's files anew: fleetcore mqtt broker-config"


class _Trial:
    """Subscribes and publishes, one after the other, and keeps what was let through."""

    def __init__(self) -> None:
        self.subscribed: dict[str, bool] = {}
        self.published: dict[str, bool] = {}
        self._subscriptions = [
            *topics.filters(["commands"], GUEST),
            *topics.filters(["commands", "twin/desired"], OTHER),
            *topics.filters(["commands"], "+"),
            "fleet/v1/#",
        ]
        self._publications = [*topics.filters(["telemetry"], OTHER), *topics.filters(["commands"], GUEST)]
        self._waiting: dict[int, str] = {}

    def __call__(self, client: paho.Client) -> None:
        client.on_subscribe = self._granted
        client.on_publish = self._sent
        for name in self._subscriptions:
            _, mid = client.subscribe(name, qos=1)
            if mid is not None:
                self._waiting[mid] = name

    def _granted(self, client: paho.Client, _data: Any, mid: int, codes: Any, _more: Any) -> None:
        self.subscribed[self._waiting.pop(mid)] = not codes[0].is_failure
        if self._waiting:
            return
        properties: Any = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho is not typed here
        properties.MessageExpiryInterval = 1
        for name in self._publications:
            self._waiting[client.publish(name, b"{}", qos=1, properties=properties).mid] = name

    def _sent(self, client: paho.Client, _data: Any, mid: int, reason: Any, _more: Any) -> None:
        self.published[self._waiting.pop(mid)] = not reason.is_failure
        if not self._waiting:
            client.disconnect()

    def findings(self, place: str) -> Sequence[Finding]:
        """What is wrong, or that nothing is."""
        own = set(topics.filters(["commands"], GUEST))
        loose = [name for name, granted in self.subscribed.items() if granted and name not in own]
        loose += [name for name, accepted in self.published.items() if accepted]
        closed = [name for name in own if not self.subscribed.get(name)]
        if loose:
            detail = f"{place} lets a device use topics that are not its own: {', '.join(loose)}"
            return [Finding(state="problem", what="broker access", detail=detail, remedy=_REMEDY)]
        if closed or len(self.subscribed) + len(self.published) < len(self._subscriptions) + len(self._publications):
            detail = f"{place} does not let a device use its own topics: {', '.join(closed) or 'it ended the trial'}"
            return [Finding(state="problem", what="broker access", detail=detail, remedy=_REMEDY)]
        detail = f"{place} keeps devices apart: {len(self.subscribed) + len(self.published)} topics tried"
        return [Finding(state="ok", what="broker access", detail=detail)]


def examine(address: Address, tls: TlsProvider) -> Sequence[Finding]:
    """Tries the broker; blocking."""
    trial = _Trial()
    place = f"{address.host}:{address.port}"
    if not visit(address, tls, GUEST, trial):
        detail = f"{place} does not let a device in that has a certificate of this fleet"
        return [Finding(state="problem", what="broker access", detail=detail, remedy=_REMEDY)]
    return trial.findings(place)
