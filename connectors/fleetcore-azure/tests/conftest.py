"""The connector on the real SDK against the counterpart."""

import asyncio
import base64
import hashlib
import hmac
import ssl
import time
from contextlib import asynccontextmanager
from urllib.parse import quote, quote_plus

import pytest
from attrs import evolve
from fleetcore_azure.config import AzureConfig
from fleetcore_azure.plugin import open_azure
from fleetcore_azure.testing.control import Control
from fleetcore_azure.testing.front import serving
from fleetcore_azure.testing.hub import Hub
from fleetcore_azure.testing.operations import HOST
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from fleetcore.interfaces.pace import Pace
from fleetcore.testing import context
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.patience import until
from fleetcore.testing.throwaway_ca import ThrowawayCa


@pytest.fixture(scope="session")
def ca():
    return ThrowawayCa()


@pytest.fixture
async def front(ca):
    async with serving(Hub(), ca=ca) as front:
        yield front


@pytest.fixture
def hub(front):
    return Control(front)


@pytest.fixture
def opened(front):
    """Opens the connector: ``async with opened(device_prefix="p-") as cloud``."""

    @asynccontextmanager
    async def run(clock=None, fleet="default", pace=True, secrets=None, secret=None, **settings):
        known = {"env:HUB": front.connection_string(), "env:DEVICES": front.connection_string("device")}
        named = {} if "host" in settings else {"connection_string": "env:HUB"}
        common = {"endpoint": front.endpoint, "ca": str(front.ca.path), "threads": 8}
        config = AzureConfig(**{**common, **named, **settings})
        lent = context(fleet=fleet, clock=clock, secrets=secrets or known)
        async with open_azure(config, lent if secret is None else evolve(lent, secret=secret)) as cloud:
            if pace:
                cloud.pace = Pace({}, MovableClock())
            yield cloud

    return run


@pytest.fixture
async def cloud(opened):
    async with opened() as cloud:
        yield cloud


@pytest.fixture
def the_device_itself(front):
    """Connects a device: ``async with the_device_itself("sensor-1") as client``."""

    @asynccontextmanager
    async def run(name):
        """The device, on paho, with its own key: it connects again by itself whenever it is cut off."""
        resource, until_s = f"{HOST}/devices/{name}", int(time.time() + 3600)
        key = base64.b64decode(front.hub.devices[name].keys[0])
        signed = hmac.digest(key, f"{quote_plus(resource)}\n{until_s}".encode(), hashlib.sha256)
        token = f"SharedAccessSignature sr={quote_plus(resource)}&sig={quote(base64.b64encode(signed), safe='')}&se={until_s}"
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=paho.MQTTv311)
        client.username_pw_set(f"{HOST}/{name}/?api-version=2021-04-12", token)
        client.tls_set_context(ssl.create_default_context(cafile=str(front.ca.path)))
        client.reconnect_delay_set(0.01, 0.02)
        host, port = front.devices.endpoint.removeprefix("mqtts://").split(":")
        before = front.devices.opened[name]
        await asyncio.to_thread(client.connect, host, int(port))
        client.loop_start()
        try:
            await until(lambda: front.devices.opened[name] > before)
            yield client
        finally:
            client.disconnect()
            await asyncio.to_thread(client.loop_stop)
            await until(lambda: name not in front.devices.open)

    return run
