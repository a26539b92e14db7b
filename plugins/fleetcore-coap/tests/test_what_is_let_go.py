"""What an association held is free once it has ended: OpenSSL's part of it is as large as all the rest.

Guards against rings of references, to which the collector of cycles comes after hours while each holds OpenSSL's memory.
"""

import weakref

import pytest
from fleetcore_coap.config import CoapConfig
from fleetcore_coap.plugin import open_client, open_coap
from fleetcore_coap.stream import Connection

from fleetcore.testing import context
from fleetcore.testing.heap import connections_of, without_collector
from fleetcore.wire import messages


@pytest.fixture
def no_collector():
    with without_collector():
        yield


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("speaks", [False, True])
async def test_an_association_that_has_ended_is_freed_without_the_collector(served, authority, until, speaks):
    async with open_client(served.url, authority.secrets("dev1")) as client:
        if speaks:
            await client.send(messages.TELEMETRY, {"power": 1})
        await until(lambda: served.adapter.connections)
        (place,) = served.adapter._places.live.values()
        held = [weakref.ref(place.association._connection), weakref.ref(place.peer)]
        del place

    await until(lambda: all(each() is None for each in held))
    assert served.adapter.connections == 0


async def test_a_stream_that_has_ended_is_freed_without_the_collector(authority, plane, until):
    config = CoapConfig(listen="coaps+tcp://127.0.0.1:0")
    with connections_of(Connection) as made:
        async with open_coap(config, context("coap", tls=authority), plane, plane) as adapter:
            async with open_client(adapter.endpoints[0], authority.secrets("dev1")) as client:
                await client.send(messages.TELEMETRY, {"power": 1})
            await until(lambda: all(each() is None for each in made))

    assert len(made) == 2
