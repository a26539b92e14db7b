"""What Pub/Sub and the network do wrong, and what becomes of it."""

import asyncio
import json
import threading

import pytest
from fleetcore_gcp.config import GcpConfig
from fleetcore_gcp.failures import from_sdk
from fleetcore_gcp.receiver import Receiver
from fleetcore_gcp.testing.server import serving
from google.auth import exceptions as auth

from fleetcore.errors import ConfigError, CredentialsRejected, Unavailable
from fleetcore.interfaces.cloud import MirrorItem
from fleetcore.interfaces.pace import Pace
from fleetcore.interfaces.waits import end_tasks
from fleetcore.model.mirror import EntityKey, GroupBody, JobBody
from fleetcore.model.telemetry import TelemetryBatch
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.cloud_contract import START_MS, TwoDevices, registration, twin
from fleetcore.testing.patience import PATIENCE_S

TWIN = EntityKey("twin", "sensor-1")


async def states(cloud, *items):
    return [result.state for result in await cloud.apply(items)]


def numbers(*series):
    return TelemetryBatch.of(list(series), range(START_MS, START_MS + len(series)), [float(at) for at in series])


async def test_a_publish_whose_answer_was_lost_is_sent_again_as_the_same(cloud, hub, front):
    front.faults.lost = 1
    with pytest.raises(Unavailable):
        await cloud.apply([twin("sensor-1", interval=1)])

    (again,) = await cloud.apply([twin("sensor-1", interval=1)])
    (newer,) = await cloud.apply([twin("sensor-1", interval=2)])

    ids = [each.attributes["fleetcore-id"] for each in hub.messages("state")]
    assert len(ids) == 3
    assert ids[0] == ids[1] == f"twin/sensor-1@{again.remote_version}"
    assert ids[2] == f"twin/sensor-1@{newer.remote_version}"
    assert len({each.message_id for each in hub.messages("state")}) == 3


async def test_a_newer_state_wins_over_one_whose_answer_was_lost(cloud, hub, front):
    (known,) = await cloud.apply([twin("sensor-1", interval=1)])
    front.faults.lost = 1
    with pytest.raises(Unavailable):
        await cloud.apply([twin("sensor-1", known.remote_version, interval=2)])

    await cloud.apply([twin("sensor-1", known.remote_version, interval=3)])
    await hub.repeat()

    assert (await hub.received())[TWIN].body == twin("sensor-1", interval=3).body


async def test_a_restarted_server_gives_versions_that_are_newer(opened, hub):
    clock = MovableClock()
    async with opened(clock=clock) as cloud:
        for number in range(5):
            await cloud.apply([twin("sensor-1", interval=number)])
    await clock.advance(1)

    async with opened(clock=clock) as cloud:  # nothing is known of what was sent
        await cloud.apply([twin("sensor-1", interval=9)])

    assert (await hub.received())[TWIN].body == twin("sensor-1", interval=9).body


async def test_a_key_that_is_stuck_holds_up_no_other_and_goes_on_in_order(cloud, hub, front):
    front.faults.stuck = ("sensor-1",)

    first = await states(cloud, registration("sensor-1"), registration("sensor-2"))
    sent = await cloud.send(numbers(0, 2, 1, 3), TwoDevices())
    front.faults.heal()
    rest = await cloud.send(numbers(0, 1), TwoDevices())

    assert first == ["failed", "done"]
    assert (sent.taken, list(sent.rest)) == (2, [0, 2])
    assert rest.taken == 2
    assert await states(cloud, registration("sensor-1")) == ["done"]
    assert [metric for metric, _, _ in await hub.telemetry("sensor-1")] == ["temperature", "humidity"]


async def test_no_reading_overtakes_one_whose_request_failed(cloud, hub, front, monkeypatch):
    monkeypatch.setattr("fleetcore_gcp.readings.MAX_MESSAGES", 1)
    front.faults.only, front.faults.errors, front.faults.status = ("Publish",), 1, "INTERNAL"

    sent = await cloud.send(numbers(0, 1, 0), TwoDevices())

    assert (sent.taken, list(sent.rest)) == (0, [0, 1, 2])
    assert await hub.telemetry("sensor-1") == []


async def test_jobs_of_one_device_share_a_request_and_its_key(cloud, hub, front):
    body = JobBody(device="sensor-1", campaign="c1", release="2", url="https://x.example", state="offered")
    items = [MirrorItem(key=EntityKey("job", f"c{number}:sensor-1"), body=body) for number in range(5)]

    assert await states(cloud, *items) == ["done"] * 5

    assert front.calls["Publish"] == 1
    assert {each.ordering_key for each in hub.messages("jobs")} == {"sensor-1"}


async def test_throttling_tells_when_to_come_again_and_slows_the_pace(cloud, front):
    cloud.pace = Pace({"publish_kb": 1000.0}, MovableClock())
    front.faults.throttled, front.faults.retry_after_s = 1, 7.0

    results = await cloud.apply([registration("sensor-1"), registration("sensor-2")])

    throttled = [each for each in results if each.state == "throttled"]
    assert [each.retry_after_s for each in throttled] == [7.0]
    assert sorted(each.state for each in results) == ["done", "throttled"]
    assert cloud.pace.throttled == {"publish_kb": 1}


async def test_one_item_that_fails_harms_no_other(cloud, front):
    for fault, state in (("throttled", "throttled"), ("errors", "failed"), ("lost", "failed")):
        front.faults.heal()
        setattr(front.faults, fault, 1)

        found = await states(cloud, *(registration(f"{fault}-{number}") for number in range(4)))

        assert sorted(found) == sorted(["done"] * 3 + [state])


async def test_groups_and_devices_have_keys_of_their_own(cloud, hub):
    group = MirrorItem(key=EntityKey("group", "sensor-1"), body=GroupBody(description="called as a device is"))
    await cloud.apply([registration("sensor-1"), group])

    assert {each.ordering_key for each in hub.messages("registry")} == {"sensor-1", "group:sensor-1"}


@pytest.mark.parametrize("refused", ["UNAUTHENTICATED", "PERMISSION_DENIED"])
async def test_refused_credentials_say_which_permission_to_allow(cloud, front, refused):
    front.faults.refused = refused

    with pytest.raises(CredentialsRejected) as failure:
        await cloud.apply([registration("sensor-1"), twin("sensor-1")])

    assert "pubsub.topics.publish" in failure.value.remedy


async def test_no_credentials_at_all_are_rejected(opened, monkeypatch, tmp_path):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    async with opened(emulator=None, region="europe-west1") as cloud:
        with pytest.raises(CredentialsRejected):
            await cloud.apply([registration("sensor-1")])


async def test_credentials_that_were_renewed_are_looked_for_again(opened, hub, front, monkeypatch):
    made = []
    clock = MovableClock()
    async with opened(clock=clock) as cloud:
        make = cloud._clients._make
        monkeypatch.setattr(cloud._clients, "_make", lambda: made.append(1) or make())
        front.faults.refused = "UNAUTHENTICATED"
        with pytest.raises(CredentialsRejected):
            await cloud.apply([registration("sensor-1")])
        front.faults.heal()
        await clock.advance(60)

        assert await states(cloud, registration("sensor-1")) == ["done"]

    assert len(made) == 2


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (auth.DefaultCredentialsError("none"), "credentials"),
        (auth.RefreshError("invalid_grant"), "credentials"),
        (auth.RefreshError("later", retryable=True), "unavailable"),
        (auth.TransportError("no network"), "unavailable"),
        (OSError("closed"), "unavailable"),
    ],
)
def test_errors_of_credentials_and_of_the_network_are_told_apart(error, kind):
    assert from_sdk("pubsub.topics.publish", error).kind == kind


async def test_an_answer_that_does_not_come_is_unavailable(opened, front, hub):
    front.faults.delay_s = 1.0
    async with opened(answer_timeout_s=0.05) as cloud:
        with pytest.raises(Unavailable):
            await cloud.apply([registration("sensor-1")])


async def test_a_server_that_is_gone_is_unavailable_and_found_again(opened, front, hub):
    async with serving() as other:
        port = int(other.endpoint.rpartition(":")[2])
    async with opened(at=other, create=True) as cloud:
        with pytest.raises(Unavailable):
            await cloud.apply([registration("sensor-1")])
        async with serving(port), asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    found = await states(cloud, registration("sensor-1"))
                    break
                except Unavailable:
                    await asyncio.sleep(0.02)

    assert found == ["done"]


async def test_nothing_is_left_running(opened, front, hub):
    async with opened() as cloud:
        arriving = cloud.inbound(None)
        waiting = asyncio.ensure_future(anext(arriving))
        await cloud.apply([registration("sensor-1")])
        await end_tasks(waiting)
        await arriving.aclose()
    left = [thread.name for thread in threading.enumerate() if "fleetcore gcp" in thread.name]

    assert left == []


async def test_a_hub_that_was_prepared_by_nobody_is_made_on_request(opened, front):
    async with opened(create=True, project_number="123456", region="europe-west1") as cloud:
        assert await states(cloud, registration("sensor-1"), twin("sensor-1")) == ["done", "done"]
        sent = await cloud.send(numbers(0), TwoDevices())
        arriving = cloud.inbound(None)
        waiting = asyncio.ensure_future(anext(arriving))
        async with asyncio.timeout(PATIENCE_S):
            while "projects/plant-project/subscriptions/fleetcore-commands" not in front.hub.subscriptions:
                await asyncio.sleep(0.01)
        async with asyncio.timeout(PATIENCE_S):
            while not front.hub.subscriptions[
                "projects/plant-project/subscriptions/fleetcore-commands"
            ].policy.bindings:
                await asyncio.sleep(0.01)
        await end_tasks(waiting)
        await arriving.aclose()
        found = [each for each in await cloud.check() if each.state == "problem"]

    subscription = front.hub.subscriptions["projects/plant-project/subscriptions/fleetcore-commands"].record
    topic = front.hub.topics["projects/plant-project/topics/fleetcore-state"].record
    assert sent.taken == 1
    assert subscription.enable_message_ordering
    assert subscription.dead_letter_policy.dead_letter_topic.endswith("/fleetcore-commands-dead")
    assert list(topic.message_storage_policy.allowed_persistence_regions) == ["europe-west1"]
    assert found == []


def test_what_is_wrong_in_the_configuration_is_told_at_once():
    good = {"project": "plant-project", "region": "europe-west1"}
    assert GcpConfig(**good).host == "europe-west1-pubsub.googleapis.com"
    for settings in (
        {"region": None},
        {"region": "Europe"},
        {"project": "P"},
        {"prefix": "google-"},
        {"prefix": "1"},
        {"emulator": "http://127.0.0.1:1"},
        {"credentials_file": "key.json"},
        {"service_account_key": "{}"},
    ):
        with pytest.raises(ConfigError) as failure:
            GcpConfig(**{**good, **settings})
        assert failure.value.remedy


def test_a_receiver_takes_one_fleet_and_forgets_no_version():
    def said(version, state, fleet="ours"):
        attributes = {
            "fleetcore-fleet": fleet,
            "fleetcore-facet": "twin",
            "fleetcore-entity": "a",
            "fleetcore-version": str(version),
        }
        return attributes, json.dumps({"state": state}).encode()

    receiver = Receiver("ours")
    taken = [
        receiver.take(*said(5, {"desired": {"a": 1}, "reported": {}})),
        receiver.take(*said(7, None)),
        receiver.take(*said(6, {"desired": {"a": 2}, "reported": {}})),
        receiver.take(*said(9, {"desired": {}, "reported": {}}, fleet="theirs")),
        receiver.take({}, b"anything"),
    ]

    assert taken == [True, True, False, False, False]
    assert receiver.states == {}
