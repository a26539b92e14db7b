"""Reported properties by a connection of each device: what is written, by how many calls, and who gives way to whom."""

import asyncio
import threading
from contextlib import asynccontextmanager

import pytest
from attrs import evolve
from fleetcore_azure.config import AzureConfig
from fleetcore_azure.links import MAX

from fleetcore.errors import ConfigError, CredentialsRejected, Unavailable
from fleetcore.interfaces.cloud import CloudUse, MirrorItem
from fleetcore.interfaces.pace import Pace
from fleetcore.model.mirror import EntityKey, TwinBody
from fleetcore.runtime.config import secret
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.cloud_contract import certified, registration, twin
from fleetcore.testing.patience import until
from fleetcore.testing.throwaway_ca import ThrowawayCa

TWIN = EntityKey("twin", "sensor-1")


@pytest.fixture
def clock():
    return MovableClock()


@pytest.fixture
def linked(opened, front, clock):
    """Opens the connector with links, and one device that it has made."""

    @asynccontextmanager
    async def run(**settings):
        common = {"device_link": "mqtt", "link_endpoint": front.devices.endpoint, "clock": clock}
        async with opened(**{**common, **settings}) as cloud:
            await cloud.apply([registration("sensor-1")])
            front.calls.clear()
            yield cloud

    return run


def report(known=None, **reported):
    """The next state of a twin, after one that was written."""
    item = MirrorItem(key=TWIN, body=TwinBody(desired={"interval": 60}, reported=reported))
    return item if known is None else evolve(item, remote_version=known.remote_version, last=known.body)


async def written(cloud, item):
    (result,) = await cloud.apply([item])
    assert result.state == "done", result
    return evolve(item, remote_version=result.remote_version)


async def state(cloud, item):
    (result,) = await cloud.apply([item])
    return result.state


# -- what is written ------------------------------------------------------------------------------------------------


async def test_a_report_is_merged_with_nulls_for_what_went_and_costs_one_call_while_the_connection_is_open(
    linked, front
):
    async with linked() as cloud:
        first = await written(cloud, report(battery=0.5, place={"row": 1, "shelf": 2}, old=True))
        front.calls.clear()
        second = await written(cloud, report(first, battery=0.25, place={"row": 3}))

        assert front.calls == {"twins/write": 1}
        assert front.hub.devices["sensor-1"].reported == {"battery": 0.25, "place": {"row": 3}}
        (there,) = await cloud.read([TWIN])
    assert there.body == second.body
    assert there.remote_version == second.remote_version


async def test_what_is_desired_alone_opens_no_connection(linked, front):
    async with linked() as cloud:
        await written(cloud, report())

        assert "links/open" not in front.calls
        assert front.hub.devices["sensor-1"].tags["fleetcore"]["twin"] == {"fleet": "default"}


async def test_a_report_that_tags_cannot_hold_is_written_whole(linked, front):
    async with linked() as cloud:
        fitted = cloud.fit(report(**{f"m{at}": "x" * 4000 for at in range(8)}))
        await written(cloud, fitted.item)

    assert fitted.lost == ()
    assert len(front.hub.devices["sensor-1"].reported) == 8


async def test_a_report_that_another_one_changed_is_a_conflict_that_reading_settles(linked, front):
    async with linked() as cloud:
        first = await written(cloud, report(battery=0.5))
        front.hub.report("sensor-1", {"battery": 0.1, "own": 1})

        known = await state(cloud, report(first, battery=0.25))
        blind = await state(cloud, evolve(report(first, battery=0.2), last=None))
        (there,) = await cloud.read([TWIN])
        await written(cloud, evolve(report(battery=0.25), remote_version=there.remote_version))

    assert (known, blind) == ("conflict", "conflict")
    assert front.hub.devices["sensor-1"].reported == {"battery": 0.25}


async def test_a_removed_twin_takes_its_report_along(linked, front):
    async with linked() as cloud:
        first = await written(cloud, report(battery=0.5))
        await written(cloud, evolve(first, body=None))

        assert front.hub.devices["sensor-1"].reported == {}
        assert "twin" not in front.hub.devices["sensor-1"].tags["fleetcore"]
        await until(lambda: not front.devices.open)


async def test_without_links_again_reports_go_to_tags_and_the_old_ones_hide_nothing(linked, opened, front):
    async with linked() as cloud:
        await written(cloud, report(battery=0.5))
        linked_identity = cloud.identity
    async with opened() as cloud:
        (there,) = await cloud.read([TWIN])
        item = evolve(report(battery=0.25), remote_version=there.remote_version)
        await written(cloud, item)
        (again,) = await cloud.read([TWIN])

        assert cloud.identity != linked_identity, "so everything is looked at anew"
    assert there.body.reported == {}
    assert again.body == item.body
    assert front.hub.devices["sensor-1"].tags["fleetcore"]["twin"]["reported"] == {"battery": 0.25}


# -- what goes wrong ------------------------------------------------------------------------------------------------


async def test_a_report_whose_answer_is_lost_is_found_done(linked, front):
    async with linked(read_timeout_s=0.5) as cloud:
        first = await written(cloud, report(battery=0.5))
        front.faults.only, front.faults.lost = ("twins/write",), 1
        front.devices.asked.clear()
        with pytest.raises(Unavailable, match="no answer"):
            await cloud.apply([report(first, battery=0.25)])

        again = await written(cloud, report(first, battery=0.25))
        await written(cloud, report(again, battery=0.125))

    assert front.hub.devices["sensor-1"].reported == {"battery": 0.125}
    assert len(front.devices.asked) == 2, "it had arrived, which reading shows"


async def test_a_report_that_was_cut_off_before_it_was_done_is_written_again_once(linked, front, clock):
    async with linked() as cloud:
        first = await written(cloud, report(battery=0.5))
        front.faults.dropped = 1
        front.devices.asked.clear()

        cut, waiting = [await state(cloud, report(first, battery=0.25)) for _ in range(2)]
        await clock.advance(61)
        last = await state(cloud, report(first, battery=0.25))

    assert (cut, waiting, last) == ("failed", "failed", "done")
    assert front.hub.devices["sensor-1"].reported == {"battery": 0.25}
    assert len(front.devices.asked) == 2


@pytest.mark.parametrize(("fault", "wanted"), [("throttled", "throttled"), ("errors", "failed")])
async def test_an_answer_that_is_an_error_is_told_like_any_other_call(linked, front, fault, wanted):
    async with linked() as cloud:
        cloud.pace = Pace({"twins/write": 100.0}, MovableClock())
        first = await written(cloud, report(battery=0.5))
        setattr(front.faults, fault, 1)

        found = await state(cloud, report(first, battery=0.25))
        assert await state(cloud, report(first, battery=0.25)) == "done"

        assert found == wanted
        assert bool(cloud.pace.throttled) is (fault == "throttled")


async def test_a_hub_that_cannot_be_reached_by_mqtt_is_unavailable_and_the_check_says_so(linked):
    async with linked(link_endpoint="mqtts://127.0.0.1:9") as cloud:
        with pytest.raises(Unavailable, match="links/open"):
            await cloud.apply([report(battery=0.5)])

        found = [each for each in await cloud.check() if each.state == "problem"]

    assert [each.what for each in found] == ["links/open"]
    assert "127.0.0.1:9" in found[0].detail


async def test_a_policy_without_device_connect_is_told(linked, front):
    async with linked() as cloud:
        front.policies["iothubowner"] -= {"DeviceConnect"}
        with pytest.raises(CredentialsRejected) as refused:
            await cloud.apply([report(battery=0.5)])

    assert "DeviceConnect" in refused.value.remedy


async def test_a_key_that_was_renewed_behind_its_reference_opens_connections(linked, front, monkeypatch, tmp_path):
    monkeypatch.setattr("fleetcore_azure.tokens._LOOKED_FOR_S", 0.0)
    file = tmp_path / "devices"
    file.touch(mode=0o600)
    file.write_text(front.connection_string("device"))
    secret_of = {"env:HUB": front.connection_string()}.get
    async with linked(
        secret=lambda name: secret_of(name) or secret(name), device_connection_string=f"file:{file}"
    ) as cloud:
        front.keys["device"] = "bmV3"
        with pytest.raises(CredentialsRejected):
            await cloud.apply([report(battery=0.5)])
        file.write_text(front.connection_string("device"))
        (there,) = await cloud.read([TWIN])

        await written(cloud, evolve(report(battery=0.5), remote_version=there.remote_version))


async def test_a_device_that_certificates_open_is_refused_with_the_reason_and_a_disabled_one_waits(
    linked, opened, front
):
    async with opened() as plain:
        await plain.apply([registration("sensor-2"), registration("sensor-3")])
        key = EntityKey("certificate", "sensor-2")
        await plain.apply([MirrorItem(key=key, body=certified(ThrowawayCa().another("sensor-2")))])
    front.hub.devices["sensor-3"].status = "disabled"
    async with linked() as cloud:
        refused, waiting = await cloud.apply([twin("sensor-2"), twin("sensor-3")])

        assert "certificate" not in cloud.limits.facets, "the engine tells that they are not sent"
    assert (refused.state, waiting.state) == ("invalid", "failed")
    assert "certificates" in refused.reason
    assert "disabled" in waiting.reason


async def test_what_is_wrong_in_the_settings_is_told_at_once(opened, front, tmp_path):
    for settings in (
        {"link_endpoint": "https://127.0.0.1:1"},
        {"link_endpoint": "mqtts://:x"},
        {"ca": str(tmp_path / "none.pem")},
    ):
        with pytest.raises(ConfigError) as failure:
            async with opened(device_link="mqtt", **settings):
                pass
        assert failure.value.remedy
    with pytest.raises(ConfigError, match="shared access policy"):
        AzureConfig(host="x.azure-devices.net", device_link="mqtt")


# -- which devices --------------------------------------------------------------------------------------------------


async def test_the_1001st_device_is_refused_with_a_remedy_and_has_its_place_once_another_one_went(linked, front, clock):
    mark = {"fleet": "default", "twin": {"fleet": "default", "link": "mqtt"}}
    async with linked() as cloud:
        for number in range(MAX):
            front.hub.make(f"pump-{number}", {"tags": {"fleetcore": mark}})

        (refused,) = await cloud.apply([report(battery=0.5)])
        known = await state(cloud, MirrorItem(key=EntityKey("twin", "pump-7"), body=TwinBody(reported={"a": 1})))
        found = [each for each in await cloud.check() if each.state == "problem"]
        (there,) = await cloud.read([EntityKey("registry", "pump-8")])
        await cloud.apply([evolve(there, body=None)])
        await written(cloud, report(battery=0.5))

    assert refused.state == "invalid"
    assert "limit_exceeded" in refused.reason
    assert "Remove device_link" in refused.reason
    assert known == "conflict", "which was linked before, keeps its place"
    assert [(each.what, "limit_exceeded" in each.detail, bool(each.remedy)) for each in found] == [
        ("device_link", True, True)
    ]


async def test_a_device_that_connects_itself_is_not_fought_and_it_is_told(
    linked, front, clock, caplog, the_device_itself
):
    async with linked() as cloud:
        first = await written(cloud, report(battery=0.5))
        async with the_device_itself("sensor-1"):
            dropped = (await cloud.apply([report(first, battery=0.25)]))[0]
            waits = []
            for _ in range(8):
                (result,) = await cloud.apply([report(first, battery=0.25)])
                waits.append(result.retry_after_s)
                await clock.advance(result.retry_after_s + 1)
            opened = front.devices.opened["sensor-1"]
        (last,) = await cloud.apply([report(first, battery=0.25)])
        await clock.advance(3601)
        (last,) = await cloud.apply([report(first, battery=0.25)])

    assert (dropped.state, dropped.retry_after_s) == ("failed", 60)
    assert opened == 2, "ours once, and the device once"
    assert waits == sorted(waits)
    assert waits[-1] == 3600
    assert last.state == "done", last
    assert "--home" in caplog.text


async def test_a_device_that_is_connected_already_is_not_cut_off(linked, front, the_device_itself):
    async with linked() as cloud, the_device_itself("sensor-1"):
        (result,) = await cloud.apply([report(battery=0.5)])
        found = [each for each in await cloud.check() if each.what == "device_link"]

        assert front.devices.opened["sensor-1"] == 1
    assert (result.state, result.retry_after_s) == ("failed", 60)
    assert front.hub.devices["sensor-1"].desired == {"interval": 60}, "what is desired does not wait for it"
    assert "sensor-1" in found[0].detail
    assert "--home" in found[0].remedy


# -- connections ----------------------------------------------------------------------------------------------------


async def test_no_more_connections_are_open_than_allowed_and_idle_ones_are_closed(linked, front, clock):
    names = [f"pump-{number}" for number in range(9)]
    async with linked(links=3) as cloud:
        await cloud.apply([registration(name) for name in names])
        results = await cloud.apply([twin(name, interval=1) for name in names])
        assert {each.state for each in results} == {"done"}

        await until(lambda: len(front.devices.open) == 3)
        assert len(front.devices.opened) == 9
        await clock.advance(31)
        assert len(front.devices.open) == 3
        await clock.advance(60)
        await until(lambda: not front.devices.open)
        assert (await cloud.read([EntityKey("twin", "pump-1")]))[0].body == twin("pump-1", interval=1).body
    # One that is told to go may be there until the hub has read it.
    assert front.devices.most <= 3 + 3


async def test_a_token_is_renewed_before_it_runs_out(linked, front, monkeypatch):
    monkeypatch.setattr("fleetcore_azure.tokens._LASTS_S", 599.0)
    async with linked() as cloud:
        first = await written(cloud, report(battery=0.5))
        await written(cloud, report(first, battery=0.25))

    assert front.devices.opened["sensor-1"] == 2


async def test_the_connection_of_a_device_that_went_is_closed(linked, front):
    async with linked() as cloud:
        await written(cloud, report(battery=0.5))
        (there,) = await cloud.read([EntityKey("registry", "sensor-1")])
        await written(cloud, evolve(there, body=None))

        await until(lambda: not front.devices.open)


async def test_nothing_is_left_at_the_end_also_of_what_was_cancelled(linked, front):
    before = set(threading.enumerate())
    async with linked(read_timeout_s=1.0) as cloud:
        await cloud.apply([registration(f"pump-{number}") for number in range(4)])
        await cloud.apply([twin(f"pump-{number}") for number in range(4)])
        front.faults.only, front.faults.lost = ("twins/write",), 1 << 30
        first = report(battery=0.5)
        cancelled = asyncio.create_task(cloud.apply([first]))
        await until(lambda: front.calls.get("twins/write", 0) > 4)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled

    await until(lambda: not front.devices.open)
    assert not [each for each in threading.enumerate() if "azure" in each.name and each not in before]
    assert not [task for task in asyncio.all_tasks() if "azure links" in task.get_name()]


async def test_the_printed_rights_are_enough(linked, front):
    async with linked() as cloud:
        cloud.use = CloudUse(sends=frozenset({"registry", "twin"}), readings=False)
        permissions = cloud.policy()["az"].partition("--permissions ")[2].splitlines()[0].split()
        front.policies["iothubowner"] = frozenset(permissions)

        assert {each.state for each in await cloud.check()} == {"ok"}
        await written(cloud, report(battery=0.5))
    assert "DeviceConnect" in permissions
    assert "device_connect      = true" in cloud.policy()["terraform"]


async def test_no_key_is_in_an_error_or_a_log(linked, front, caplog):
    caplog.set_level("DEBUG")
    async with linked() as cloud:
        await written(cloud, report(battery=0.5))
        front.devices.drop("sensor-1")
        await cloud.apply([report(battery=0.25)])

    secrets = [front.keys["iothubowner"], *front.hub.devices["sensor-1"].keys, "SharedAccessSignature"]
    assert not [each for each in secrets if each in caplog.text]
