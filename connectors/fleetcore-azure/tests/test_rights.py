"""The printed rights are enough, and what is missing of them is named by the check or by the call that fails."""

import json
from types import SimpleNamespace

import pytest
from attrs import evolve
from fleetcore_azure.actions import ACTIONS, needed, rates
from fleetcore_azure.config import AzureConfig
from fleetcore_azure.policy import policy
from fleetcore_azure.testing.control import Control

from fleetcore.errors import CredentialsRejected, FleetError
from fleetcore.interfaces.cloud import CloudUse, MirrorItem
from fleetcore.model.mirror import EntityKey, JobBody, RegistryBody, TwinBody
from fleetcore.model.telemetry import TelemetryBatch
from fleetcore.runtime.clock import SystemClock
from fleetcore.testing.cloud_contract import START_MS, TwoDevices, certified
from fleetcore.testing.throwaway_ca import ThrowawayCa

HOST = "counterpart.azure-devices.net"
ALL = CloudUse(commands=True)
CA = ThrowawayCa()
JOB = JobBody(device="sensor-1", campaign="c1", release="2", url="https://x.example", state="offered")
BODIES = [
    (
        EntityKey("registry", "sensor-1"),
        RegistryBody(type="sensor", lifecycle="active", name="north door"),
        RegistryBody(type="sensor", lifecycle="active"),
    ),
    (EntityKey("twin", "sensor-1"), TwinBody(), TwinBody(desired={"interval": 1})),
    (EntityKey("job", "c1:sensor-1"), JOB, evolve(JOB, state="done")),
    (EntityKey("certificate", "sensor-1"), certified(CA.another("sensor-1")), certified(CA.another("sensor-1"))),
]
CONFIG = {"host": HOST, "device_connection_string": "env:DEVICES", "commands_by": "c2d"}
NEEDED = needed(ALL, AzureConfig(**CONFIG))
RIGHTS = sorted({right for name in NEEDED for right in ACTIONS[name].rights})


@pytest.fixture(autouse=True)
def entra(monkeypatch):
    class Trusted:
        def get_token(self, *scopes):
            return SimpleNamespace(token="trial", expires_on=4_000_000_000)

    monkeypatch.setattr("fleetcore_azure.clients.default_credential", Trusted)


@pytest.fixture
def at(opened):
    return lambda **more: opened(clock=SystemClock(), commands_poll_s=0.01, **{**CONFIG, **more})


async def everything(cloud, front):
    """Does all that a mirror does."""
    hub = Control(front, "c2d")
    key, first, second = BODIES[0]
    for key, first, second in BODIES:
        (made,) = await cloud.apply([cloud.fit(MirrorItem(key=key, body=first)).item])
        assert made.state == "done", made
        await cloud.read([key])
        assert [each async for each in cloud.entities(key.facet)] == [key]
        changed = cloud.fit(MirrorItem(key=key, body=second, remote_version=made.remote_version)).item
        (changed,) = await cloud.apply([changed])
        assert changed.state == "done", changed
        if key.facet == "registry":
            await cloud.send(TelemetryBatch.of([0], [START_MS], [1.0]), TwoDevices())
            await hub.command("sensor-1", "reboot", {})
            arriving = cloud.inbound(None)
            assert (await anext(arriving)).events
            await hub.command("sensor-1", "blink", {})
            assert (await anext(arriving)).events
            await arriving.aclose()
            suspended = evolve(second, lifecycle="suspended")
            (held,) = await cloud.read([key])
            (done,) = await cloud.apply([evolve(held, body=suspended)])
            assert done.state == "done", done
    for key, _, _ in reversed(BODIES):
        (held,) = await cloud.read([key])
        (gone,) = await cloud.apply([evolve(held, body=None)])
        assert gone.state == "done", gone


async def test_the_printed_role_is_enough_for_everything(at, front):
    async with at() as cloud:
        cloud.use = ALL
        front.faults.role = json.loads(cloud.policy()["json"])

        assert {each.state for each in await cloud.check()} == {"ok", "warning"}
        await everything(cloud, front)

    assert front.calls.keys() == set(NEEDED), "it allows what is called and no more"


@pytest.mark.parametrize("right", RIGHTS)
async def test_a_right_that_is_missing_is_named(at, front, right):
    async with at() as cloud:
        cloud.use = ALL
        role = json.loads(cloud.policy()["json"])
        front.faults.role = {**role, "DataActions": [each for each in role["DataActions"] if each != right]}

        found = [each for each in await cloud.check() if each.state == "problem"]
        with pytest.raises(CredentialsRejected) as refused:
            await everything(cloud, front)

    assert found
    assert all(right in each.remedy for each in found)
    assert right in refused.value.remedy


@pytest.mark.parametrize("permission", ["RegistryRead", "RegistryWrite", "ServiceConnect", "DeviceConnect"])
async def test_a_permission_that_a_shared_access_policy_lacks_is_named(opened, front, permission):
    front.policies["iothubowner"] -= {permission, "RegistryWrite"} if permission == "RegistryRead" else {permission}
    async with opened(clock=SystemClock(), commands_by="c2d", commands_poll_s=0.01) as cloud:
        cloud.use = ALL
        found = [each for each in await cloud.check() if each.state == "problem"]
        with pytest.raises(FleetError) as refused:
            await everything(cloud, front)

    assert any(permission in each.remedy for each in found)
    assert isinstance(refused.value, CredentialsRejected)


async def test_checking_writes_nothing(at, front):
    async with at() as cloud:
        cloud.use = ALL
        await cloud.check()

    assert not front.hub.devices
    assert not front.hub.events
    assert front.calls.keys() == set(NEEDED), "every right is tried"


def test_a_mirror_that_does_less_needs_less():
    use = CloudUse(sends=frozenset({"twin"}), readings=False)
    config = AzureConfig(host=HOST, subscription="s", resource_group="g")

    made = policy(use, config, "cold-rooms")
    role = json.loads(made["json"])

    assert role["DataActions"] == [f"Microsoft.Devices/IotHubs/twins/{each}" for each in ("read", "write")]
    assert role["AssignableScopes"] == ["/subscriptions/s/resourceGroups/g"]
    assert "shared_access_policy" not in made["terraform"]
    assert "--permissions ServiceConnect\n" in made["az"]


def test_all_forms_say_the_same():
    made = policy(ALL, AzureConfig(**CONFIG), "cold-rooms")

    for right in json.loads(made["json"])["DataActions"]:
        assert f'"{right}", # ' in made["terraform"]
    assert "device_connect      = true" in made["terraform"]
    assert "--permissions RegistryWrite ServiceConnect DeviceConnect\n" in made["az"]


def test_rates_follow_from_the_tier_and_its_units():
    small, two, large = (
        rates(AzureConfig(host=HOST, tier=tier, units=units)) for tier, units in (("S1", 1), ("S1", 20), ("S3", 2))
    )

    assert (small["devices/bulk"], small["messages/send"], small["twins/read"]) == (1.67, 100, 100)
    assert (two["messages/send"], two["twins/write"]) == (240, 50)
    assert (large["twins/write"], large["messages/send"]) == (500, 12000)
