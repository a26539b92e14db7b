"""What a connection held is free once it has ended: its TLS state goes with it, and is as large as all the rest.

Guards against rings of references, to which the collector of cycles comes after hours while each holds OpenSSL's memory.
"""

import pytest
from fleetcore_websocket.connection import Connection
from fleetcore_websocket.plugin import open_client

from fleetcore.testing.heap import connections_of
from fleetcore.wire import messages


@pytest.mark.parametrize("speaks", [False, True])
async def test_a_connection_that_has_ended_is_freed_without_the_collector(served, authority, until, speaks):
    with connections_of(Connection) as made:
        async with open_client(served.url, authority.secrets("dev1")) as client:
            if speaks:
                await client.send(messages.TELEMETRY, {"power": 1})

        await until(lambda: all(each() is None for each in made))
    assert len(made) == 2
