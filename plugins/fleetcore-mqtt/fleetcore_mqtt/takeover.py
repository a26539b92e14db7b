"""A short connection to the broker under a device's name: to disconnect the device, or to probe the broker's ACLs.

The certificate is made for this connection, is valid for minutes, and is not accepted by fleetcore's own listeners. It
blocks: call it in a thread.
"""

import time
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from fleetcore.interfaces.provider import TlsProvider
from fleetcore.wire.tls import client_context
from fleetcore_mqtt.addresses import Address

#: The time limits for connecting, and for the whole connection.
ANSWER_S, TAKEOVER_S = 10.0, 5.0


def take_over(address: Address, tls: TlsProvider, device: str, arrived: Callable[[paho.Client], None]) -> bool:
    """Connects as ``device``, calls ``arrived(client)`` and returns after the disconnection; False if refused.

    ``arrived`` sets its callbacks on the client and disconnects when it is done. After ``TAKEOVER_S`` it is closed.
    """
    certificate, key = tls.takeover_certificate(device)
    client = paho.Client(
        CallbackAPIVersion.VERSION2, client_id=device, protocol=paho.MQTTv5, reconnect_on_failure=False
    )
    # The consumer's own connection judges the dates of the broker's certificate, by the fleet's clock.
    client.tls_set_context(client_context(ca=tls.ca_bundle(), certificate=certificate, key=key, now_ms=lambda: None))
    client.connect_timeout = ANSWER_S
    let_in: list[bool] = []
    until = time.monotonic() + TAKEOVER_S

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
