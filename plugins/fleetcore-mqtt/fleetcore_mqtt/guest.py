"""A short visit to the broker in a device's name: to throw the device out, or to try what the broker lets one do.

The certificate is made for the visit, lasts minutes, and opens no listener of fleetcore's own. Blocking: for a thread.
"""

import time
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from fleetcore.interfaces.provider import TlsProvider
from fleetcore.wire.tls import client_context
from fleetcore_mqtt.addresses import Address

#: How long a connection may take, and how long a visit.
ANSWER_S, VISIT_S = 10.0, 5.0


def visit(address: Address, tls: TlsProvider, device: str, arrived: Callable[[paho.Client], None]) -> bool:
    """Connects as ``device``, calls ``arrived(client)`` and returns once it has disconnected; False where refused.

    ``arrived`` sets its own callbacks on the client and disconnects when it is done; after ``VISIT_S`` the visit ends.
    """
    certificate, key = tls.evictor(device)
    client = paho.Client(
        CallbackAPIVersion.VERSION2, client_id=device, protocol=paho.MQTTv5, reconnect_on_failure=False
    )
    client.tls_set_context(client_context(ca=tls.ca_bundle(), certificate=certificate, key=key))
    client.connect_timeout = ANSWER_S
    let_in: list[bool] = []
    until = time.monotonic() + VISIT_S

    def connected(client: paho.Client, _data: Any, _flags: Any, reason: Any, _more: Any) -> None:
        let_in.append(not reason.is_failure)
        if reason.is_failure:
            client.disconnect()
        else:
            arrived(client)

    client.on_connect = connected
    try:
        client.connect(address.host, address.port, keepalive=int(ANSWER_S), clean_start=True)
        while client.loop(0.2) == paho.MQTT_ERR_SUCCESS and time.monotonic() < until:
            pass
        client.disconnect()
    except OSError:
        return False
    return let_in == [True]
