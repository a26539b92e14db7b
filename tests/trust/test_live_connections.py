"""Rights that end while a device speaks: on every protocol the connection goes within a second, and takes nothing more."""

import asyncio

import pytest
from attrs import evolve
from fleetcore_http.plugin import open_client

from fleetcore.errors import FleetError, NotAuthenticated, NotAuthorised, Unavailable
from fleetcore.interfaces.protocol import DeviceSecrets
from fleetcore.interfaces.waits import end_tasks
from fleetcore.model.device import Lifecycle
from fleetcore.runtime.clock import SystemClock
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.testing.simulator import SimulatedDevice
from fleetcore.wire import messages
from tests.trust.test_bad_certificates import KINDS, client

BY_TOKEN = ("coap by key", "oscore")


@pytest.fixture
async def secrets(served, kind):
    """Of th-1, which has enrolled; its token alone where it speaks by a key."""
    await served.manager.register_device("th-1", "meter")
    token = (await served.manager.create_enrollment_token("th-1")).token
    device = SimulatedDevice(
        DeviceSecrets(device="th-1", ca=served.security.authority.ca_pem()),
        open_client,
        served.url("http"),
        SystemClock(),
    )
    await device.enroll(token)
    if kind not in BY_TOKEN:
        return device.secrets
    token = (await served.manager.issue_device_token("th-1")).token
    return evolve(device.secrets, certificate=None, key=None, token=token)


@pytest.fixture(params=[*KINDS, *BY_TOKEN])
def kind(request):
    return request.param


class Stream:
    """A device that sends one reading after the other; ``outcomes`` are codes, None for what was acknowledged."""

    def __init__(self, device):
        self.device, self.outcomes = device, []

    async def run(self):
        while True:
            try:
                reply = await self.device.send(messages.TELEMETRY, {"power": len(self.outcomes)})
            except FleetError as error:
                self.outcomes.append(error.code)
                return
            self.outcomes.append(reply.error and reply.error["code"])

    async def until(self, condition):
        async with asyncio.timeout(PATIENCE_S):
            while not condition(self.outcomes):
                await asyncio.sleep(0.001)


async def _stored(served):
    await served.fleet.wait_idle()
    try:
        return len((await served.manager.query_telemetry("th-1", "power")).value)
    except KeyError:
        return 0


async def test_a_device_that_is_revoked_in_mid_stream_is_cut_off_and_nothing_of_it_is_taken_afterwards(
    served, secrets, kind
):
    adapter = served.fleet.protocols[kind.partition(" ")[0]].adapter
    device = await client(served, kind, secrets).__aenter__()
    stream = Stream(device)
    sending = asyncio.ensure_future(stream.run())
    await stream.until(lambda outcomes: outcomes.count(None) >= 5)
    await served.security.revoke("th-1", reason="stolen")
    under_way = len(stream.outcomes) + 1
    await served.fleet.wait_idle()
    stored = await _stored(served)
    await stream.until(lambda outcomes: outcomes[-1] is not None)
    # 3.1.1 has no code in its acknowledgements, so only that nothing comes in is asked of it.
    await asyncio.wait([sending], timeout=1.0)
    await end_tasks(sending)
    async with asyncio.timeout(PATIENCE_S):
        while adapter.connections:
            await asyncio.sleep(0.01)

    assert None not in stream.outcomes[under_way:]
    assert await _stored(served) <= stored + 1  # one message may have been on its way through the queue
    assert adapter.connections == 0
    with pytest.raises((NotAuthenticated, NotAuthorised, Unavailable)):
        async with client(served, kind, secrets):
            pass
    await device.__aexit__(None, None, None)


async def test_a_suspended_device_stays_connected_and_its_messages_are_refused_until_it_is_resumed(
    served, secrets, kind
):
    async with client(served, kind, secrets) as device:
        await device.send(messages.TELEMETRY, {"power": 1})
        await served.fleet.devices.move("th-1", Lifecycle.SUSPENDED, actor="olga", reason="odd")
        refused = await device.send(messages.TELEMETRY, {"power": 2})
        await served.fleet.devices.move("th-1", Lifecycle.ACTIVE, actor="olga", reason="fine")
        taken = await device.send(messages.TELEMETRY, {"power": 3})

    if kind != "mqtt 3.1.1":  # there the refusal comes on the topic errors
        assert refused.error["code"] == "device_suspended"
    assert taken.error is None
    assert (await served.manager.query_telemetry("th-1", "power")).value.tolist() == [1, 3]
