"""What a connection held is free once it has ended: its TLS state goes with it, and is as large as all the rest.

Guards against rings of references, to which the collector of cycles comes after hours while each holds OpenSSL's memory.
"""

import pytest
from fleetcore_mqtt.client import MqttDeviceClient
from fleetcore_mqtt.connection import Connection

from fleetcore.testing.heap import connections_of
from fleetcore.wire import messages


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_a_connection_that_has_ended_is_freed_without_the_collector(tls_endpoint, pki, until, version):
    with connections_of(Connection) as made:
        async with MqttDeviceClient(tls_endpoint.endpoints[0], pki.secrets("dev1"), version=version) as client:
            await client.send(messages.TELEMETRY, {"t": 1})

        await until(lambda: all(each() is None for each in made))
    assert len(made) == 2
