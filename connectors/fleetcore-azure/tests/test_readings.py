"""Readings as device-to-cloud messages: in order, whole, again where they were not taken, refused where they cannot be."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from attrs import evolve

from fleetcore.errors import CredentialsRejected
from fleetcore.interfaces.cloud import CloudUse, MirrorItem
from fleetcore.model.mirror import EntityKey
from fleetcore.model.telemetry import Quality, TelemetryBatch
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.cloud_contract import START_MS, TwoDevices, certified, registration
from fleetcore.testing.throwaway_ca import ThrowawayCa

BATCH = TelemetryBatch.of([0, 2, 1, 0], range(START_MS, START_MS + 4), [1.0, 2.0, 3.0, 4.0])
CA = ThrowawayCa()


@pytest.fixture(autouse=True)
async def devices(cloud):
    await cloud.apply([registration("sensor-1"), registration("sensor-2")])


async def test_each_device_has_one_message_with_its_readings_in_order_and_properties_to_route_by(cloud, front):
    sent = await cloud.send(BATCH, TwoDevices())

    assert (sent.taken, list(sent.rest)) == (4, [])
    first, second = sorted(front.hub.events, key=lambda event: event.device)
    assert json.loads(first.body) == {
        "device": "sensor-1",
        "fleet": "default",
        "readings": [
            {"metric": "temperature", "time": START_MS, "value": 1.0},
            {"metric": "humidity", "time": START_MS + 2, "value": 3.0},
            {"metric": "temperature", "time": START_MS + 3, "value": 4.0},
        ],
    }
    assert {name: first.properties[name] for name in ("fleet", "kind", "first", "last")} == {
        "fleet": "default",
        "kind": "telemetry",
        "first": str(START_MS),
        "last": str(START_MS + 3),
    }
    assert second.properties["iothub-creation-time-utc"] == "2026-01-01T00:00:00.001Z"


async def test_many_readings_are_cut_into_messages_that_the_hub_takes(cloud, front, hub):
    count = 20_000
    batch = TelemetryBatch.of([0, 2] * (count // 2), range(START_MS, START_MS + count), [0.5] * count)

    sent = await cloud.send(batch, TwoDevices())

    assert sent.taken == count
    assert 200_000 < max(len(each.body) for each in front.hub.events) < 256 * 1024
    for device, first in (("sensor-1", 0), ("sensor-2", 1)):
        times = [time for _, time, _ in await hub.telemetry(device)]
        assert times == list(range(START_MS + first, START_MS + count, 2))


async def test_nothing_of_a_device_is_sent_after_what_was_not_taken(cloud, front):
    count = 10_000  # several messages
    batch = TelemetryBatch.of([0] * count, range(START_MS, START_MS + count), [0.5] * count)
    front.faults.errors = 1

    sent = await cloud.send(batch, TwoDevices())

    assert list(sent.rest) == list(range(count))
    assert front.hub.events == []
    assert front.calls["messages/send"] == 1


async def test_what_is_no_number_is_refused_and_truth_stays_truth(cloud, hub):
    batch = evolve(
        TelemetryBatch.of([0, 1, 0], range(START_MS, START_MS + 3), [1.0, 1.0, 2.0]),
        value=np.array([np.nan, 1.0, 2.0]),
        quality=np.array([0, int(Quality.BOOLEAN), 0], dtype=np.uint8),
    )

    sent = await cloud.send(batch, TwoDevices())

    assert (list(sent.refused), sent.taken) == ([0], 2)
    assert [value for _, _, value in await hub.telemetry("sensor-1")] == [True, 2.0]


async def test_a_device_that_certificates_open_is_refused_with_the_reason_and_looked_at_once(opened, front):
    clock = MovableClock()
    async with opened(clock=clock) as cloud:
        key = EntityKey("certificate", "sensor-1")
        await cloud.apply([MirrorItem(key=key, body=certified(CA.another("sensor-1")))])
        front.calls.clear()

        first = await cloud.send(BATCH, TwoDevices())
        again = await cloud.send(BATCH, TwoDevices())
        calls = dict(front.calls)
        await cloud.apply([MirrorItem(key=key, body=None, remote_version=(await cloud.read([key]))[0].remote_version)])
        await clock.advance(61)
        last = await cloud.send(BATCH, TwoDevices())

    for sent in (first, again):
        assert sorted(sent.refused) == [0, 2, 3]
        assert "certificates" in sent.refused[0]
        assert (sent.taken, list(sent.rest)) == (1, [])
    assert calls == {"messages/send": 3, "twins/read": 1}
    assert last.taken == 4


async def test_a_device_that_was_made_anew_with_other_keys_is_refused_and_not_401_for_ever(cloud, front):
    front.hub.remove("sensor-1")
    front.hub.make("sensor-1", {"authentication": {"type": "certificateAuthority"}})
    front.hub.remove("sensor-2")

    sent = await cloud.send(BATCH, TwoDevices())

    assert sent.taken == 0
    assert "no mark" in sent.refused[0]
    assert "no device" in sent.refused[1]


async def test_a_disabled_device_is_refused(cloud, front):
    front.hub.devices["sensor-1"].status = "disabled"

    sent = await cloud.send(BATCH, TwoDevices())

    assert (sent.taken, "disabled" in sent.refused[0]) == (1, True)


async def test_a_policy_without_device_connect_is_told(opened, front):
    front.policies["iothubowner"] -= {"DeviceConnect"}
    async with opened() as cloud:
        with pytest.raises(CredentialsRejected) as refused:
            await cloud.send(BATCH, TwoDevices())

    assert "DeviceConnect" in refused.value.remedy


async def test_entra_id_alone_sends_no_readings_and_it_is_said_what_does(opened, monkeypatch):
    class Trusted:
        def get_token(self, *scopes):
            return SimpleNamespace(token="trial", expires_on=4_000_000_000)

    monkeypatch.setattr("fleetcore_azure.clients.default_credential", Trusted)
    async with opened(host="counterpart.azure-devices.net") as cloud:
        with pytest.raises(CredentialsRejected, match="device_connection_string") as refused:
            await cloud.send(BATCH, TwoDevices())

    assert "DeviceConnect" in refused.value.remedy


async def test_the_check_warns_of_readings_of_devices_with_certificates(cloud):
    cloud.use = CloudUse(sends=frozenset({"registry", "certificate"}))

    found = [each for each in await cloud.check() if each.state == "warning"]

    assert [each.what for each in found] == ["certificates"]
