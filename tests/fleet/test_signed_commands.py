"""Signed commands: the simulated device runs what its fleet signed for it, once, in time; nothing else."""

import asyncio
import copy

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from fleetcore.interfaces.protocol import DeviceClient, DeviceSecrets
from fleetcore.model.message import Downlink, Reply
from fleetcore.testing.simulator import Behaviour, SimulatedDevice
from fleetcore.wire import messages
from fleetcore.wire.dsse import sign
from fleetcore.wire.strict_json import dumps

TYPE = "application/vnd.fleetcore.command+json"


class HostileBroker(DeviceClient):
    """Hands the device whatever the test puts into ``inbox`` and keeps what it says."""

    def __init__(self):
        self.inbox, self.said = asyncio.Queue(), []

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass

    async def send(self, operation, body, *, subject=None, target=None, id=None):
        self.said.append((operation, target, body))
        return Reply()

    async def request(self, operation, body=None, *, subject=None):
        return Reply()

    async def downlinks(self):
        while True:
            yield Downlink(type=messages.COMMAND, subject="d", body=await self.inbox.get())
            self.inbox.task_done()

    async def enroll(self, request):
        raise NotImplementedError

    def artifact(self, sha256, start=0, *, subject=None):
        raise NotImplementedError


@pytest.fixture
async def broker():
    return HostileBroker()


@pytest.fixture
async def device(fleet, broker, clock):
    key = load_pem_public_key(fleet.security.command_public_key()).public_bytes_raw()
    device = SimulatedDevice(
        DeviceSecrets(device="d", ca=b""), lambda *_: broker, "", clock, behaviour=Behaviour(command_key=key)
    )
    await fleet.devices.register("d", "sensor")
    await fleet.devices.register("other", "sensor")
    await device.connect()
    yield device
    await device.disconnect()


@pytest.fixture
def deliver(broker):
    async def go(body):
        broker.said.clear()
        broker.inbox.put_nowait(copy.deepcopy(body))
        for _ in range(200):
            await asyncio.sleep(0)
        return [body["status"] for operation, _, body in broker.said if operation is messages.COMMAND_RESULT]

    return go


async def signed(fleet, device="d", **options):
    return fleet.commands.wire(await fleet.commands.send(device, "blink", {"n": 1}, **options))


async def test_what_the_fleet_signed_is_run_once_and_a_repeat_is_answered_from_memory(fleet, device, deliver):
    body = await signed(fleet)

    assert await deliver(body) == ["accepted", "succeeded"]
    assert await deliver(body) == ["succeeded"]
    assert device.ran == [body["id"]]


async def test_commands_of_two_lanes_may_overtake_each_other(fleet, device, deliver):
    first, second, other = [await signed(fleet, lane=lane) for lane in ("a", "a", "b")]

    for body in (first, other, second):
        assert await deliver(body) == ["accepted", "succeeded"]


@pytest.mark.parametrize("attack", ["replayed", "foreign", "unsigned", "forged", "no command", "renamed"])
async def test_what_a_broker_makes_up_is_refused(fleet, device, deliver, attack):
    earlier, later = await signed(fleet), await signed(fleet)
    await deliver(later)
    stranger = Ed25519PrivateKey.generate()
    body = {
        # Older than what was run, as it is after the device forgot its results: it could have been run before.
        "replayed": earlier,
        "foreign": await signed(fleet, "other"),
        "unsigned": {**earlier, "signed": None},
        "forged": {**earlier, "signed": sign(dumps({**earlier, "device": "d", "sequence": 99}), TYPE, [stranger])},
        "no command": {**earlier, "signed": fleet.security.sign_command({"device": "d", "id": earlier["id"]})},
        "renamed": {**earlier, "id": "another"},
    }[attack]

    assert await deliver(body) == ["rejected"]
    assert device.ran == [later["id"]]
    assert device.refused_commands == [body["id"]]


async def test_an_expired_command_is_refused(fleet, device, deliver, clock):
    body = await signed(fleet, execute_within_s=10)
    clock.jump(10_001)

    assert await deliver(body) == ["rejected"]
    assert device.ran == []


async def test_only_the_payload_that_was_signed_is_run(fleet, device, deliver, broker):
    body = await signed(fleet)

    await deliver({**body, "name": "fail", "args": {"n": 2}})

    assert broker.said[-1][2]["output"] == {"name": "blink", "args": {"n": 1}}
