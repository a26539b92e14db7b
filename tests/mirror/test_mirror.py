"""A mirror of a configured fleet, from fleet.toml to the hub, and what operators ask it."""

import asyncio
import io
import json
import time

import pytest

from fleetcore.errors import ConfigError, NotFound
from fleetcore.model.credential import LocalCredential
from fleetcore.model.message import Accepted, Inbound
from fleetcore.testing import memory_cloud
from fleetcore.testing.patience import PATIENCE_S, until
from fleetcore.wire import messages

from .conftest import caught_up, registry, twin


async def test_a_mirror_sends_devices_twins_and_readings_and_goes_on_after_a_restart(served, hub):
    async with served() as manager:
        await manager.register_device("dev-1", "sensor")
        await manager.set_desired("dev-1", {"interval": 60})
        await manager.collect_telemetry("dev-1", "temperature", 21.5)
        await caught_up(manager)
        before = hub.writes[registry("dev-1")]
    async with served() as manager:
        await manager.collect_telemetry("dev-1", "temperature", 22.5)
        await manager.collect_telemetry("dev-1", "mode", "eco")
        await manager.set_desired("dev-1", {"interval": 30})
        await caught_up(manager)
        shown = await manager.get_mirror("memory")

    assert hub.body(twin("dev-1"))["desired"] == {"interval": 30}
    assert shown.readings.taken == 2
    sent = [(each.metric, each.value) for each in hub.telemetry]
    assert sorted(sent) == [("mode", "eco"), ("temperature", 21.5), ("temperature", 22.5)]
    assert hub.writes[registry("dev-1")] == before


async def test_two_mirrors_are_apart_and_one_that_is_down_holds_up_no_other(served, hubs):
    hubs["hub"].go_down()
    sections = ('[clouds.memory]\nkind = "memory"', '[clouds.second]\nkind = "memory"\nhub = "other"')
    async with served(*sections) as manager:
        await manager.register_device("dev-1", "sensor")
        await caught_up(manager, "second")
        first = await manager.get_mirror("memory")
        second = await manager.get_mirror("second")

    assert (first.state, second.state) == ("failing", "running")
    assert "down" in first.error
    assert (first.held, second.held) == (0, 1)
    assert first.waiting == 1


async def test_what_is_sent_is_what_the_section_names(served, hub):
    section = (
        '[clouds.memory]\nmirror = ["registry", "groups"]\nwhere = "type = \'truck\'"\n'
        'metrics = ["heat"]\ndeadband = {heat = 1}'
    )
    async with served(section) as manager:
        await manager.create_group("depot")
        for device, kind in (("truck-1", "truck"), ("door-1", "door")):
            await manager.register_device(device, kind)
            await manager.set_desired(device, {"interval": 60})
            for value in (20.0, 20.5, 22.0):
                await manager.collect_telemetry(device, "heat", value)
                await manager.collect_telemetry(device, "noise", value)
        await caught_up(manager)

    assert sorted(map(str, hub.held)) == ["group/depot", "registry/truck-1"]
    assert [(each.device, each.metric, each.value) for each in hub.telemetry] == [
        ("truck-1", "heat", 20.0),
        ("truck-1", "heat", 22.0),
    ]


async def test_a_position_leaves_the_fleet_only_where_that_was_said(served, hub):
    async with served() as manager:
        await manager.register_device("dev-1", "sensor")
        fleet = await manager.open()
        session = await fleet.plane.authenticate(LocalCredential("dev-1"), protocol="test")
        position = Inbound(type=messages.LOCATION, subject="dev-1", payload=b'{"lat": 1.0, "lon": 2.0}')
        assert isinstance(await fleet.ingest.submit(session, position), Accepted)
        await caught_up(manager)
    assert "location" not in hub.body(registry("dev-1"))

    async with served("[clouds.memory]\nlocation = true") as manager:
        await manager.resync_mirror("memory")
        await caught_up(manager)
    assert hub.body(registry("dev-1"))["location"]["lat"] == 1.0


async def test_a_paused_mirror_sends_nothing_also_after_a_restart_and_the_plan_says_what_it_would(served, hub):
    async with served() as manager:
        await manager.register_device("dev-1", "sensor")
        await caught_up(manager)
        assert (await manager.pause_mirror("memory", reason="audit")).state == "paused"
    async with served() as manager:
        await manager.register_device("dev-2", "sensor")
        await manager.set_desired("dev-1", {"interval": 5, "a.b": 1})
        await until(lambda: (manager._fleet.mirrors["memory"].state) == "paused")
        plan = await manager.plan_mirror("memory", limit=1000)
        assert [(each.entity, each.action) for each in plan] == [("registry/dev-2", "create")]
        twins = await manager.plan_mirror("memory", limit=1000, cursor=plan.next)
        assert [(each.entity, each.action, [loss.path for loss in each.lost]) for each in twins] == [
            ("twin/dev-1", "create", ["/desired/a.b"])
        ]
        assert twins.next is None
        assert registry("dev-2") not in hub.held

        await manager.resume_mirror("memory")
        await caught_up(manager)
        assert registry("dev-2") in hub.held
        assert [each.entity for each in await manager.list_mirror_losses("memory")] == ["twin/dev-1"]
        events = [each.action for each in await manager.list_audit(limit=1000)]
    assert {"mirror.paused", "mirror.resumed"} <= set(events)


async def test_drift_names_what_differs_is_missing_or_is_too_much(served, hub):
    async with served() as manager:
        for number in range(4):
            await manager.register_device(f"dev-{number}", "sensor")
        await caught_up(manager)
        pages, cursor = [], None
        hub.edit(registry("dev-1"), {**hub.body(registry("dev-1")), "type": "lamp"})
        hub.edit(registry("dev-2"), None)
        hub.edit(registry("ghost"), {"type": "sensor", "lifecycle": "active"}, owner=hub.held[registry("dev-1")].owner)
        while True:
            part = await manager.list_mirror_drift("memory", limit=3, after=cursor)
            pages += part.differences
            cursor = part.next
            if cursor is None:
                break

    assert [(each.entity, each.state) for each in pages] == [
        ("registry/dev-1", "differs"),
        ("registry/dev-2", "missing"),
        ("registry/ghost", "extra"),
    ]


async def test_what_the_hub_refuses_is_a_dead_letter_until_it_fits(served):
    async with served() as manager:
        await manager.register_device("dev-1", "sensor")
        await manager.set_desired("dev-1", {"text": "x" * 9000})
        await caught_up(manager)
        (dead,) = await manager.list_mirror_dead_letters("memory")
        assert (dead.entity, "the hub holds 8192" in dead.reason) == ("twin/dev-1", True)
        await manager.set_desired("dev-1", {"text": None})
        await caught_up(manager)
        assert list(await manager.list_mirror_dead_letters("memory")) == []


async def test_a_mirror_that_there_is_not_is_named_with_those_that_there_are(served):
    async with served() as manager:
        with pytest.raises(NotFound) as refused:
            await manager.get_mirror("aws")
    assert "memory" in refused.value.remedy


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('mirror = ["devices"]', "mirror"),
        ("timeout_s = 0", "timeout_s"),
        ("deadband = 3", "deadband"),
        ('metrics = "heat"', "metrics"),
    ],
)
async def test_a_section_that_is_wrong_is_refused_with_its_line(served, line, said):
    with pytest.raises(ConfigError) as refused:
        async with served(f"[clouds.memory]\n{line}"):
            pass
    assert said in str(refused.value) + refused.value.remedy
    assert refused.value.line == 7


async def test_a_deadband_of_a_metric_that_is_not_sent_is_refused(served):
    with pytest.raises(ConfigError) as refused:
        async with served('[clouds.memory]\nmetrics = ["heat"]\ndeadband = {head = 1, "*" = 2}'):
            pass

    assert "deadband names head, which is not sent" in str(refused.value)
    assert refused.value.remedy == "Add head to metrics"
    assert refused.value.line == 5


async def test_no_reading_leaves_the_fleet_unless_its_metric_is_named(served, hub):
    async with served("[clouds.memory]") as manager:
        await manager.register_device("dev-1", "sensor")
        await manager.collect_telemetry("dev-1", "heat", 20.5)
        await manager.collect_telemetry("dev-1", "state", "on")
        await caught_up(manager)
        mirror = (await manager.open()).mirrors["memory"]

    assert "registry/dev-1" in map(str, hub.held)
    assert (hub.telemetry, mirror.readings) == ([], None)


async def test_a_key_that_a_section_has_not_is_told_with_those_of_the_core(served):
    with pytest.raises(ConfigError) as refused:
        async with served("[clouds.memory]\ndirections = {}"):
            pass

    assert refused.value.remedy == "Did you mean 'direction'?"


async def test_a_hub_that_takes_no_readings_is_tried_with_one(served, hub, monkeypatch):
    monkeypatch.setattr("fleetcore.pipeline.back_off._WAITS_S", (0.01,))
    sizes, send = [], memory_cloud.MemoryCloud.send

    async def counted(self, batch, catalog):
        sizes.append(len(batch))
        return await send(self, batch, catalog)

    monkeypatch.setattr(memory_cloud.MemoryCloud, "send", counted)
    async with served('[clouds.memory]\nmirror = []\nmetrics = ["*"]') as manager:
        await manager.register_device("dev-1", "sensor")
        hub.go_down()
        now = time.time_ns() // 1_000_000
        content = {
            "series": [["dev-1", "heat", None]],
            "at": [0] * 90,
            "time": [now - n for n in range(90)],
        }
        await manager.import_readings(io.BytesIO(json.dumps({**content, "value": [1.0] * 90}).encode()))
        await until(lambda: len(sizes) > 3)
        assert set(sizes[1:]) == {1}
        hub.heal()
        await until(lambda: len(hub.telemetry) == 90)

    assert sizes[-1] == 89


async def test_readings_wait_for_their_device_where_the_hub_refuses_them_before(served, hub, monkeypatch):
    apply, go = memory_cloud.MemoryCloud.apply, asyncio.Event()

    async def late(self, items):
        await go.wait()
        return await apply(self, items)

    async def strict(self, batch, catalog):
        known = {key.id for key in self.hub.held if key.facet == "registry"}
        unknown = [at for at, index in enumerate(batch.series) if catalog.series(int(index)).device not in known]
        assert not unknown
        return await send(self, batch, catalog)

    send = memory_cloud.MemoryCloud.send
    monkeypatch.setattr(memory_cloud.MemoryCloud, "apply", late)
    monkeypatch.setattr(memory_cloud.MemoryCloud, "send", strict)
    monkeypatch.setattr(memory_cloud, "READINGS_AFTER_DEVICE", True)
    async with served() as manager:
        await manager.register_device("dev-1", "sensor")
        await manager.collect_telemetry("dev-1", "heat", 1.0)
        mirror = (await manager.open()).mirrors["memory"]
        await until(lambda: mirror.sender.counts["calls"])
        assert not hub.telemetry
        go.set()
        await until(lambda: hub.telemetry)

    assert mirror.readings.status.failures == 0


async def test_readings_go_on_after_credentials_were_rejected(served, hub, monkeypatch):
    monkeypatch.setattr("fleetcore.pipeline.back_off._WAITS_S", (0.01,))
    async with served('[clouds.memory]\nmirror = []\nmetrics = ["*"]') as manager:
        await manager.register_device("dev-1", "sensor")
        hub.reject_credentials()
        await manager.collect_telemetry("dev-1", "heat", 1.0)
        sender = (await manager.open()).mirrors["memory"].readings
        await until(lambda: sender.status.failures)
        assert "rejects the credentials" in sender.status.error
        hub.heal()
        await until(lambda: hub.telemetry)

    assert [reading.value for reading in hub.telemetry] == [1.0]


async def test_what_is_not_mirrored_any_more_is_not_sent_though_it_was_marked(served, hub):
    async with served('[clouds.memory]\nmirror = ["registry", "twins"]') as manager:
        await manager.pause_mirror("memory")
        await manager.register_device("dev-1", "sensor")
        await manager.set_desired("dev-1", {"interval": 1})
        marks = (await manager.open()).mirrors["memory"].sender.pending
        async with asyncio.timeout(PATIENCE_S):
            while await marks.waiting() < 2:
                await asyncio.sleep(0.005)
    async with served('[clouds.memory]\nmirror = ["registry"]') as manager:
        await manager.resume_mirror("memory")
        await caught_up(manager)
        shown = await manager.get_mirror("memory")

    assert set(hub.held) == {registry("dev-1")}
    assert shown.waiting == 0


async def test_a_reading_that_a_backend_cannot_handle_is_refused_and_holds_up_no_other(served, hub, monkeypatch):
    send = memory_cloud.MemoryCloud.send

    async def odd(self, batch, catalog):
        if 13.0 in batch.value:
            raise ValueError("13 is not a number")
        return await send(self, batch, catalog)

    monkeypatch.setattr(memory_cloud.MemoryCloud, "send", odd)
    async with served('[clouds.memory]\nmirror = []\nmetrics = ["*"]') as manager:
        await manager.register_device("dev-1", "sensor")
        for value in range(10, 20):
            await manager.collect_telemetry("dev-1", "heat", float(value))
        await until(lambda: len(hub.telemetry) == 9)
        (refused,) = await manager.list_mirror_refused_readings("memory")

    assert [each.value for each in hub.telemetry] == [10, 11, 12, 14, 15, 16, 17, 18, 19]
    assert refused.reason == "The backend raised ValueError: 13 is not a number"
