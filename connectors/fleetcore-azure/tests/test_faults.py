"""What the hub and the network do wrong, and what becomes of it."""

import asyncio
import datetime as dt
import json
import re
from contextlib import suppress

import pytest
from attrs import evolve
from fleetcore_azure.failures import from_answer, of_device

from fleetcore.errors import ConfigError, CredentialsRejected, Unavailable
from fleetcore.interfaces.call_failed import SET_CLOCK
from fleetcore.interfaces.cloud import CloudUse, MirrorItem
from fleetcore.interfaces.pace import Pace
from fleetcore.model.mirror import EntityKey, JobBody
from fleetcore.model.telemetry import TelemetryBatch
from fleetcore.runtime.config import secret
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.cloud_contract import START_MS, TwoDevices, registration, twin
from fleetcore.testing.http1 import Answer

REGISTRY = EntityKey("registry", "sensor-1")
TWIN = EntityKey("twin", "sensor-1")
BATCH = TelemetryBatch.of([0, 2], range(START_MS, START_MS + 2), [1.0, 2.0])


async def states(cloud, *items):
    return [result.state for result in await cloud.apply(items)]


def meanwhile(front, action, change):
    """Another writer changes the hub right after the next answer to a class of calls."""
    do, changes = front.hub.do, [change]

    def answer(call):
        answered = do(call)
        if call.action == action and changes:
            changes.pop()()
        return answered

    front.hub.do = answer


# -- bulk -----------------------------------------------------------------------------------------------------------


async def test_of_a_bulk_that_fails_partly_each_device_has_its_own_result(cloud, front):
    front.hub.make("sensor-3", {})
    front.faults.partly = 2

    first = await states(cloud, *(registration(f"sensor-{at}") for at in range(5)))
    again = await states(cloud, *(registration(f"sensor-{at}") for at in range(5)))

    assert first == ["failed", "failed", "done", "foreign", "done"]
    assert again == ["done", "done", "done", "foreign", "done"]


async def test_a_bulk_that_is_refused_whole_is_no_success(cloud, front):
    """The SDK takes HTTP 400 for an answer, whose members are None."""
    do = front.hub.do

    def refusing(call):
        return do(evolve(call, document="nothing that can be read")) if call.action == "devices/bulk" else do(call)

    front.hub.do = refusing

    assert await states(cloud, registration("sensor-1")) == ["invalid"]
    assert not front.hub.devices


async def test_a_bulk_whose_answer_tells_nothing_is_looked_into(cloud, front):
    do = front.hub.do

    def silent(call):
        answer = do(call)
        return (
            evolve(answer, body=b'{"isSuccessful": false, "errors": []}') if call.action == "devices/bulk" else answer
        )

    front.hub.do = silent
    assert await states(cloud, registration("sensor-1")) == ["done"], "it is there as wanted"
    silence = Answer(body=b'{"isSuccessful": false, "errors": []}')
    front.hub.do = lambda call: silence if call.action == "devices/bulk" else do(call)
    assert await states(cloud, registration("sensor-2")) == ["conflict"], "it is not there"
    front.hub.do = lambda call: evolve(do(call), body=b"{}") if call.action == "devices/bulk" else do(call)
    with pytest.raises(Unavailable):
        await cloud.apply([registration("sensor-2")])


async def test_a_device_that_was_changed_since_it_was_read_is_not_removed(cloud, front):
    (made,) = await cloud.apply([registration("sensor-1")])
    meanwhile(front, "twins/read", lambda: front.hub._identify(front.hub.devices["sensor-1"], {"status": "enabled"}))

    gone = MirrorItem(key=REGISTRY, body=None, remote_version=made.remote_version)
    assert await states(cloud, gone) == ["conflict"]
    assert "sensor-1" in front.hub.devices
    assert await states(cloud, gone) == ["done"]


# -- answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("facet", ["registry", "twin", "job", "certificate"])
async def test_a_list_that_was_cut_is_a_failure_and_no_empty_list(cloud, front, facet):
    await cloud.apply([registration("sensor-1")])
    front.faults.only, front.faults.halved = ("twins/query",), 1

    with pytest.raises(Unavailable):
        [key async for key in cloud.entities(facet)]


@pytest.mark.parametrize("key", [REGISTRY, TWIN])
async def test_a_state_that_was_cut_is_a_failure_and_not_gone(cloud, front, key):
    await cloud.apply([registration("sensor-1"), twin("sensor-1", interval=1)])
    front.faults.only, front.faults.halved = ("twins/read",), 1

    with pytest.raises(Unavailable):
        await cloud.read([key])


@pytest.mark.parametrize("body", [b"{}", b"null", b"[]", b'{"deviceId": "sensor-1", "etag": "x"}'])
async def test_an_answer_without_what_it_must_have_is_a_failure(cloud, front, body):
    await cloud.apply([registration("sensor-1")])
    do = front.hub.do
    front.hub.do = lambda call: evolve(do(call), body=body)

    with pytest.raises(Unavailable):
        await cloud.read([REGISTRY])


async def test_a_write_whose_answer_was_lost_is_found_done(cloud, front):
    for action, item in (("devices/bulk", registration("sensor-1")), ("twins/write", twin("sensor-1", interval=1))):
        front.faults.only, front.faults.lost = (action,), 1
        with pytest.raises(Unavailable):
            await cloud.apply([item])
        assert await states(cloud, item) == ["done"]


async def test_a_write_to_a_twin_whose_answer_was_lost_is_a_conflict_that_reading_settles(cloud, front):
    await cloud.apply([registration("sensor-1")])
    (known,) = await cloud.apply([twin("sensor-1", interval=1)])
    front.faults.only, front.faults.lost = ("twins/write",), 1
    with pytest.raises(Unavailable):
        await cloud.apply([twin("sensor-1", known.remote_version, interval=2)])

    again = await states(cloud, twin("sensor-1", known.remote_version, interval=2))
    newer = await states(cloud, twin("sensor-1", known.remote_version, interval=3))

    assert (again, newer) == (["done"], ["conflict"])


async def test_the_sdk_repeats_nothing_by_itself(cloud, front):
    await cloud.apply([registration("sensor-1")])
    for fault in ("lost", "errors", "throttled"):
        front.calls.clear()
        front.faults.heal()
        front.faults.only = ("twins/read", "twins/write")
        setattr(front.faults, fault, 1)
        with suppress(Unavailable):
            await cloud.apply([twin("sensor-1", a=fault)])
        assert front.calls == {"twins/read": 1}


@pytest.mark.parametrize(("heads", "bodies"), [(1, 0), (0, 1)])
async def test_a_request_that_was_cut_is_not_done_and_made_again(cloud, front, hub, heads, bodies):
    await hub.cut_requests(heads, bodies)
    with pytest.raises(Unavailable):
        await cloud.apply([registration("sensor-1")])
    assert not front.hub.devices

    assert await states(cloud, registration("sensor-1")) == ["done"]


async def test_readings_whose_request_or_answer_was_cut_are_sent_again(cloud, front, hub):
    await cloud.apply([registration("sensor-1"), registration("sensor-2")])
    await hub.cut_requests(0, 1)

    sent = await cloud.send(BATCH, TwoDevices())

    assert (sent.taken, len(sent.rest)) == (1, 1)
    assert len(front.hub.events) == 1


# -- throttling and quotas ------------------------------------------------------------------------------------------


async def test_throttling_slows_its_class_and_says_when_to_come_again(cloud, front):
    cloud.pace = Pace({"devices/bulk": 100.0, "twins/read": 100.0}, MovableClock())
    front.faults.throttled, front.faults.retry_after_s = 1 << 30, 7.0

    results = await cloud.apply([registration("sensor-1"), twin("sensor-2", interval=1)])

    assert [(each.state, each.retry_after_s) for each in results] == [("throttled", 7.0)] * 2
    assert cloud.pace.throttled == {"devices/bulk": 1, "twins/read": 1}


async def test_the_days_quota_waits_until_midnight_utc_and_is_no_rejected_credential(cloud, front):
    await cloud.apply([registration("sensor-1"), registration("sensor-2")])
    front.hub.quota = 1

    sent = await cloud.send(BATCH, TwoDevices())

    assert (sent.taken, len(sent.rest)) == (1, 1)
    now = dt.datetime.now(dt.UTC)
    left_s = 24 * 3600 - (now - now.replace(hour=0, minute=0, second=0, microsecond=0)).total_seconds()
    assert abs(sent.retry_after_s - left_s) < 60
    assert cloud.pace.throttled == {}, "calls do not come too fast"


def test_the_quota_waits_for_the_hubs_midnight_whatever_our_clock_says():
    headers = {"iothub-errorcode": "IotHubQuotaExceeded", "date": "Sat, 03 Jan 2026 23:30:00 GMT"}

    failed = from_answer("messages/send", 403, "", headers, now_s=0.0)

    assert (failed.kind, failed.retry_after_s, failed.paced) == ("throttled", 1800.0, False)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (403, '{"Message": "ErrorCode:IotHubQuotaExceeded;Total number of messages exceeded"}', "throttled"),
        (403, '{"message": "{\\"errorCode\\":403002,\\"message\\":\\"x\\"}"}', "throttled"),
        (429, "", "throttled"),
        (401, "no JSON", "credentials"),
        (404, '{"Message": "ErrorCode:DeviceNotFound;x"}', "missing"),
        (412, "[]", "conflict"),
        (409, "", "exists"),
        (413, "", "invalid"),
        (502, "<html>", "unavailable"),
    ],
)
def test_errors_are_known_by_their_names_then_their_numbers_then_the_status(status, body, kind):
    assert from_answer("twins/read", status, body, {}, 0.0).kind == kind


def test_errors_of_devices_in_bulk_are_known_by_name_and_number():
    kinds = [of_device("devices/bulk", code, "").kind for code in ("DeviceAlreadyExists", "409001", "429001", "Odd")]

    assert kinds == ["exists", "exists", "throttled", "invalid"]


async def test_one_item_that_is_throttled_or_fails_harms_no_other(cloud, front):
    await cloud.apply([registration(f"sensor-{at}") for at in range(4)])
    for fault, state in (("throttled", "throttled"), ("errors", "failed"), ("lost", "failed")):
        front.faults.heal()
        front.faults.only = ("twins/write",)
        setattr(front.faults, fault, 1)

        found = await states(cloud, *(twin(f"sensor-{at}", **{fault: 1}) for at in range(4)))

        assert sorted(found)[:3] in (["done"] * 3, ["conflict", "done", "done"], ["conflict"] * 3)
        assert state in found
        front.faults.heal()
        for at in range(4):
            (there,) = await cloud.read([EntityKey("twin", f"sensor-{at}")])
            version = None if there is None else there.remote_version
            await cloud.apply([MirrorItem(key=EntityKey("twin", f"sensor-{at}"), body=None, remote_version=version)])


async def test_a_read_that_is_throttled_is_made_again_and_fails_no_other(cloud, front):
    names = [f"sensor-{at}" for at in range(5)]
    await cloud.apply([registration(name) for name in names])
    front.faults.only, front.faults.throttled = ("twins/read",), 3

    found = await cloud.read([EntityKey("registry", name) for name in names])

    assert [each.key.id for each in found] == names
    assert front.faults.throttled == 0


async def test_a_list_whose_continuation_expires_half_way_begins_anew(cloud, front):
    front.hub.largest_page = 2
    await cloud.apply([registration(f"sensor-{at}") for at in range(5)])
    front.faults.stale = 2

    found = [key.id async for key in cloud.entities("registry")]

    assert set(found) == {f"sensor-{at}" for at in range(5)}
    assert len(found) > 5
    front.faults.stale = 3
    with pytest.raises(Unavailable, match="continuation"):
        [key async for key in cloud.entities("registry")]


# -- the index ------------------------------------------------------------------------------------------------------


async def test_an_index_that_lags_by_a_minute_undoes_nothing_and_hides_nothing_that_is_read(cloud, front):
    now = [1_000_000.0]
    front.hub.now_s = lambda: now[0]
    front.hub.index_lag_s = 60.0
    await cloud.apply([registration("sensor-1"), twin("sensor-1", interval=1)])

    assert [key async for key in cloud.entities("registry")] == []
    (there,) = await cloud.read([TWIN])
    assert there.body.desired == {"interval": 1}, "a state is read from the twin and not from the index"
    now[0] += 61
    await cloud.apply([twin("sensor-1", there.remote_version, interval=2)])
    assert [key async for key in cloud.entities("twin")] == [TWIN]
    (again,) = await cloud.read([TWIN])
    assert again.body.desired == {"interval": 2}


# -- credentials ----------------------------------------------------------------------------------------------------


async def test_a_key_that_was_renewed_behind_its_reference_is_used(opened, front, monkeypatch, tmp_path):
    monkeypatch.setattr("fleetcore_azure.tokens._LOOKED_FOR_S", 0.0)
    file = tmp_path / "hub"
    file.touch(mode=0o600)
    file.write_text(front.connection_string())
    async with opened(secret=secret, connection_string=f"file:{file}") as cloud:
        assert await states(cloud, registration("sensor-1")) == ["done"]
        front.keys["iothubowner"] = "bmV3"
        with pytest.raises(CredentialsRejected) as refused:
            await cloud.apply([registration("sensor-2")])
        file.write_text(front.connection_string())

        assert await states(cloud, registration("sensor-2")) == ["done"]
    assert "RegistryWrite" in refused.value.remedy


async def test_a_policy_that_lacks_a_permission_is_told_with_it(opened, front):
    front.policies["iothubowner"] = frozenset({"RegistryWrite", "DeviceConnect"})
    async with opened() as cloud:
        with pytest.raises(CredentialsRejected) as refused:
            await cloud.read([TWIN])

    assert "ServiceConnect" in refused.value.remedy
    assert "Microsoft.Devices/IotHubs/twins/read" in refused.value.remedy


async def test_a_clock_that_is_hours_behind_is_told_from_a_wrong_key(cloud, front, hub):
    await hub.have_time(2 * 3600)

    with pytest.raises(Unavailable) as failed:
        await cloud.apply([registration("sensor-1")])
    found = await cloud.check()

    assert re.search(r"(7199|7200) s behind the hub's", failed.value.message), "its date has whole seconds"
    assert failed.value.remedy == SET_CLOCK
    assert [(each.state, each.what) for each in found] == [("problem", "clock")]


async def test_no_secret_is_in_an_error_or_a_log(opened, front, caplog):
    caplog.set_level("DEBUG")
    front.faults.refused = True
    async with opened() as cloud:
        with pytest.raises(CredentialsRejected) as refused:
            await cloud.apply([registration("sensor-1")])
    front.faults.heal()
    async with opened() as cloud:
        (made,) = await cloud.apply([registration("sensor-1")])
        suspended = evolve(registration("x").body, lifecycle="suspended")
        await cloud.apply([registration("sensor-1", made.remote_version, suspended)])

    secrets = [front.keys["iothubowner"], *front.hub.devices["sensor-1"].keys, "SharedAccessSignature"]
    said = caplog.text + str(refused.value) + refused.value.remedy
    assert not [each for each in secrets if each in said]


async def test_what_is_wrong_in_the_configuration_is_told_at_once_and_quotes_no_secret(opened):
    for settings in (
        {"connection_string": "HostName=x;SharedAccessKeyName=y;SharedAccessKey=c2VjcmV0"},
        {"connection_string": None},
        {"host": "x.azure-devices.net", "connection_string": "env:HUB"},
        {"host": "https://x.azure-devices.net"},
        {"device_prefix": "a b"},
        {"endpoint": "http://127.0.0.1:1"},
        {"host": "x.azure-devices.net", "commands_by": "c2d"},
        {"secrets": {"env:HUB": "HostName=x;SharedAccessKeyName=y;SharedAccessKey=no base64, c2VjcmV0"}},
        {"secrets": {"env:HUB": "c2VjcmV0"}},
    ):
        with pytest.raises(ConfigError) as failure:
            async with opened(**settings):
                pass
        assert failure.value.remedy
        assert "c2VjcmV0" not in str(failure.value) + failure.value.remedy


async def test_a_name_that_has_no_address_and_a_certificate_that_is_not_trusted_are_unavailable(opened, tmp_path):
    for settings in ({"endpoint": "https://nowhere.invalid:1"}, {"ca": None}):
        async with opened(**settings) as cloud:
            with pytest.raises(Unavailable):
                await cloud.apply([registration("sensor-1")])
            with pytest.raises(Unavailable):
                await cloud.send(BATCH, TwoDevices())
            found = await cloud.check()
        assert "problem" in {each.state for each in found}


async def test_an_answer_that_does_not_come_is_unavailable(opened, front):
    front.faults.delay_s = 5.0
    async with opened(read_timeout_s=0.05) as cloud:
        with pytest.raises(Unavailable):
            await cloud.read([REGISTRY])


async def test_a_cancelled_call_leaves_nothing_behind(opened, front):
    front.faults.delay_s = 0.2
    async with opened() as cloud:
        task = asyncio.create_task(cloud.apply([registration("sensor-1")]))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


# -- other writers --------------------------------------------------------------------------------------------------


async def test_a_device_that_was_made_anew_by_another_one_is_left_alone(cloud, front):
    (first,) = await cloud.apply([registration("sensor-1")])
    front.hub.remove("sensor-1")
    front.hub.make("sensor-1", {})

    later = registration("sensor-1", first.remote_version, evolve(registration("x").body, name="new"))
    assert await states(cloud, later) == ["foreign"]
    assert await states(cloud, MirrorItem(key=REGISTRY, body=None, remote_version=first.remote_version)) == ["foreign"]
    assert await states(cloud, twin("sensor-1", a=1)) == ["foreign"]
    job = JobBody(device="sensor-1", campaign="c", release="2", url="https://x.example", state="offered")
    assert await states(cloud, MirrorItem(key=EntityKey("job", "c:sensor-1"), body=job)) == ["foreign"]
    assert await cloud.read([REGISTRY, TWIN]) == [None, None]
    assert front.hub.devices["sensor-1"].tags == {}


async def test_what_was_imported_and_has_become_another_fleets_meanwhile_is_left_alone(cloud, front):
    tags = {"fleetcore": {"fleet": "other", "twin": {"fleet": "other"}}}
    front.hub.make("sensor-1", {"tags": tags})

    items = [evolve(item, adopts=True) for item in (registration("sensor-1", "v"), twin("sensor-1", "v", a=1))]

    assert await states(cloud, *items) == ["foreign", "foreign"]
    assert front.hub.devices["sensor-1"].tags == tags


async def test_a_twin_that_another_fleet_writes_is_left_alone_also_where_nobody_sends_the_device(opened, cloud, front):
    front.hub.make("sensor-1", {})
    async with opened(fleet="other") as other:
        cloud.use = other.use = CloudUse(sends=frozenset({"twin"}))
        await other.apply([twin("sensor-1", a=1)])

        assert await states(cloud, twin("sensor-1", a=2), MirrorItem(key=TWIN, body=None)) == ["foreign"] * 2
        assert await cloud.read([TWIN]) == [None]
    assert front.hub.devices["sensor-1"].desired == {"a": 1}


async def test_a_twin_that_is_changed_between_reading_and_writing_is_a_conflict(cloud, front):
    await cloud.apply([registration("sensor-1")])
    (made,) = await cloud.apply([twin("sensor-1", interval=1)])
    meanwhile(front, "twins/read", lambda: front.hub.edit("sensor-1", desired={"interval": 5}))

    assert await states(cloud, twin("sensor-1", made.remote_version, interval=2)) == ["conflict"]
    assert front.hub.devices["sensor-1"].desired == {"interval": 5}


async def test_a_registration_that_is_changed_between_reading_and_writing_is_a_conflict(cloud, front):
    (made,) = await cloud.apply([registration("sensor-1")])
    meanwhile(front, "twins/read", lambda: front.hub.edit("sensor-1", tags={"site": "south"}))

    later = registration("sensor-1", made.remote_version, evolve(registration("x").body, name="new"))
    assert await states(cloud, later) == ["conflict"]
    assert front.hub.devices["sensor-1"].tags["site"] == "south"


async def test_a_change_of_another_facet_between_reading_and_writing_is_none(cloud, front):
    (made,) = await cloud.apply([registration("sensor-1")])
    meanwhile(front, "twins/read", lambda: front.hub.edit("sensor-1", desired={"interval": 5}))

    later = registration("sensor-1", made.remote_version, evolve(registration("x").body, name="new"))
    assert await states(cloud, later) == ["done"]


async def test_what_the_hub_holds_beyond_the_fleets_limits_is_read_as_it_is(cloud, front):
    await cloud.apply([registration("sensor-1"), twin("sensor-1", a=1)])
    deep = {"v": 2**52 - 1}
    for _ in range(9):
        deep = {"n": deep}

    front.hub.edit("sensor-1", desired={"deep": deep, "least": -(2**52)})

    (there,) = await cloud.read([TWIN])
    assert there.body.desired == {"a": 1, "deep": deep, "least": -(2**52)}
    assert json.loads(json.dumps(there.body.desired)) == there.body.desired
