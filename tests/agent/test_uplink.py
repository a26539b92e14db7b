"""Between a gateway and the core: readings, twins, commands and alerts, at once and after an outage."""

import asyncio
import time

from fleetcore_edge.uplink import link as links

from fleetcore.model.anomaly import Anomaly, Severity
from fleetcore.model.command import FINISHED
from fleetcore.runtime.backup import backup
from tests.agent.conftest import GATEWAY, until


def now():
    return time.time_ns() // 1_000_000


async def test_a_leaf_of_the_gateway_is_seen_at_the_core_with_its_readings(site):
    await site.start()
    leaf = await site.leaf("pump-1")
    await leaf.connect()
    values = [
        {"metric": "temperature", "value": 21.5, "unit": "Cel", "time": now() - 2000},
        {"metric": "open", "value": True, "time": now() - 2000, "seq": 4},
        {"metric": "mode", "value": "auto", "time": now() - 2000},
    ]
    await leaf.send(values, 3)

    await until(lambda: count(site, "pump-1"), 1)
    await until(lambda: count(site, "pump-1", "open"), 1)

    assert (await site.core.get_device("pump-1")).gateway == "gw-1"
    latest = await site.core.call("list_device_latest_readings", device_id="pump-1")
    assert {each["metric"]: (each["value"], each["unit"]) for each in latest} == {
        "temperature": (21.5, "Cel"),
        "open": (True, None),
        "mode": ("auto", None),
    }
    await leaf.disconnect()


async def count(site, device, metric="temperature"):
    return len(await site.at_core(device, metric))


async def test_nothing_is_lost_and_nothing_comes_twice_over_an_outage_and_a_restart(site):
    await site.start()
    leaf = await site.leaf("pump-1")
    await leaf.connect()
    began, sent = now() - 3_600_000, []

    async def send(some):
        for number in some:
            sent.append((began + 1000 * number, float(number)))
            await leaf.send({"temperature": float(number), "time": sent[-1][0]}, 1)

    await send(range(20))
    site.cut()
    await send(range(20, 150))
    await leaf.disconnect()
    await site.stop()
    await site.start()
    leaf.endpoint = (await site.gateway.open()).protocols["websocket"].endpoints()[0]
    await leaf.connect()
    await send(range(150, 180))
    site.mend()
    await send(range(180, 200))

    await until(lambda: count(site, "pump-1"), 200)

    assert await site.at_core("pump-1") == sent
    await until(lambda: old_ones_went_their_own_way(site))
    assert site.uplink.status()["lost"] == 0
    await leaf.disconnect()


async def test_new_readings_do_not_wait_for_old_ones(site):
    await site.start()
    leaf = await site.leaf("pump-1")
    await leaf.connect()
    await leaf.send({"temperature": 0.0, "time": now() - 60_000}, 1)
    await until(lambda: count(site, "pump-1"), 1)
    site.cut()
    for number in range(100):
        await leaf.send({"temperature": 1.0, "time": now() - 50_000 + number}, 1)
    held, deliver = asyncio.Event(), site.uplink.backlog.deliver

    async def waits(entries):
        await held.wait()
        await deliver(entries)

    site.uplink.behind._courier = type("Held", (), {"deliver": staticmethod(waits)})
    site.mend()
    await until(lambda: backlog(site), True)
    newest = now()
    await leaf.send({"temperature": 2.0, "time": newest}, 1)

    async def there():
        return (newest, 2.0) in await site.at_core("pump-1")

    await until(there)
    assert await count(site, "pump-1") < 102
    held.set()
    await until(lambda: count(site, "pump-1"), 102)
    await leaf.disconnect()


async def old_ones_went_their_own_way(site):
    return site.uplink.status()["readings"]["backlog"].get("sent", 0) > 0


async def backlog(site):
    return site.uplink.status()["waiting"] > 0


async def test_twins_meet_after_an_outage(site):
    await site.start()
    leaf = await site.leaf("pump-1")
    await leaf.connect()
    await leaf.report({"interval": 60, "mode": "auto"})

    async def at_core():
        reported = (await site.core.call("get_twin", device_id="pump-1"))["reported"]
        return {name: reported[name] for name in ("interval", "mode", "level") if name in reported}

    await until(known(site, "pump-1"))
    await until(at_core, {"interval": 60, "mode": "auto"})
    site.cut()
    await leaf.report({"mode": None, "interval": 30})
    await leaf.report({"level": 4})
    await site.core.call("set_desired", device_id="pump-1", patch={"interval": 10})
    site.mend()

    await until(lambda: leaf_has(leaf, {"interval": 10}))
    await until(at_core, {"interval": 10, "level": 4})  # the leaf has followed

    async def acknowledged():
        twin = await site.core.call("get_twin", device_id="pump-1")
        return twin["acknowledged"] == twin["desired_version"]

    await until(acknowledged)
    await leaf.disconnect()


async def leaf_has(leaf, wanted):
    return {name: leaf.desired.get(name) for name in wanted} == wanted


def known(site, device):
    async def look():
        return device in site.uplink.status()["leaves"]

    return look


async def test_a_command_of_the_core_runs_once_and_its_result_comes_back_after_an_outage(site):
    await site.start()
    leaf = await site.leaf("pump-1")
    await leaf.connect()
    await leaf.send({"temperature": 1.0}, 1)
    await until(lambda: count(site, "pump-1"), 1)
    await leaf.disconnect()
    sent = await site.core.call("send_command", device_id="pump-1", name="blink", args={"times": 2})

    async def here():
        fleet = await site.gateway.open()
        return [each.name for each in await fleet.commands.list("pump-1", unfinished=True)]

    await until(here, ["blink"])
    site.cut()
    await leaf.connect()
    fleet = await site.gateway.open()

    async def done():
        return [each.state in FINISHED for each in await fleet.commands.list("pump-1")]

    await until(done, [True])
    site.mend()

    async def at_core():
        return (await site.core.call("get_command", command=sent["id"]))["state"]

    await until(at_core, "succeeded")
    assert len(leaf.ran) == 1
    await leaf.disconnect()


async def test_an_alert_of_an_outage_is_told_and_has_one_identity(site):
    await site.start()
    leaf = await site.leaf("pump-1")
    await leaf.connect()
    await leaf.send({"temperature": 1.0}, 1)
    await until(lambda: count(site, "pump-1"), 1)
    site.cut()
    fleet = await site.gateway.open()
    found = Anomaly(
        id="here", detector="too-hot", device="pump-1", metric="temperature", time=now() - 1000, observed=91.0,
        expected=60.0, score=1.5, severity=Severity.CRITICAL, explanation="91 is above 60", found=now(),
    )  # fmt: skip
    await fleet.anomalies.add([found])
    site.mend()

    async def alerts():
        return [each["explanation"] for each in await site.core.call("list_anomalies", device="pump-1")]

    await until(alerts, ["91 is above 60"])
    site.uplink.state._all_again = True
    await leaf.report({"again": True})

    async def told_again():
        return site.uplink.status()["state"]["alerts"] >= 2

    await until(told_again)
    assert await alerts() == ["91 is above 60"]
    await leaf.disconnect()


async def test_a_leaf_that_is_suspended_at_the_core_may_not_speak_at_its_gateway(site):
    await site.start()
    leaf = await site.leaf("pump-1")
    await leaf.connect()
    await leaf.send({"temperature": 1.0}, 1)
    await until(lambda: count(site, "pump-1"), 1)

    await site.core.call("set_lifecycle", device_id="pump-1", state="suspended")
    await site.uplink.leaves.look()

    fleet = await site.gateway.open()
    assert (await fleet.devices.get("pump-1")).lifecycle == "suspended"
    await site.core.call("set_lifecycle", device_id="pump-1", state="active")
    await site.uplink.leaves.look()
    assert (await fleet.devices.get("pump-1")).lifecycle == "active"
    await leaf.disconnect()


async def test_a_leaf_that_was_erased_at_the_core_is_not_announced_again(site):
    await site.start()
    leaf = await site.leaf("pump-1")
    await leaf.connect()
    await leaf.send({"temperature": 1.0}, 1)
    await until(lambda: count(site, "pump-1"), 1)

    await site.core.call("erase_device", device_id="pump-1")
    await site.uplink.leaves.look()

    assert (await site.uplink.leaves.announced("pump-1")).startswith("not_your_device")
    assert await (await site.core.open()).devices.find("pump-1") is None
    await leaf.disconnect()


async def test_a_leaf_that_was_detached_while_the_agent_did_not_run_may_not_speak(site):
    await site.start()
    leaf = await site.leaf("pump-1")
    await leaf.connect()
    await leaf.send({"temperature": 1.0}, 1)
    await until(lambda: count(site, "pump-1"), 1)
    await leaf.disconnect()
    await site.stop()

    await site.core.call("detach_leaf", gateway_id=GATEWAY, device_id="pump-1")
    await site.start()

    fleet = await site.gateway.open()
    await until(lambda: lifecycle(fleet), "suspended")


async def lifecycle(fleet):
    return (await fleet.devices.get("pump-1")).lifecycle


async def test_a_device_that_is_not_here_is_not_announced(site):
    await site.start()
    await until(lambda: connected(site), True)

    assert (await site.uplink.leaves.announced("pump-9")).startswith("device_unknown")
    assert await (await site.core.open()).devices.find("pump-9") is None


async def connected(site):
    return site.uplink.link.state.connected


async def test_twins_and_alerts_meet_again_where_the_core_was_restored_from_a_backup(site, monkeypatch):
    monkeypatch.setattr(links, "_WAITS_S", (0.05,))
    await site.start()
    gateway, core = await site.gateway.open(), await site.core.open()
    leaf = await site.leaf("pump-1")
    await leaf.connect()
    await leaf.send({"temperature": 1.0}, 1)
    await until(lambda: count(site, "pump-1"), 1)
    await leaf.report({"before": 1})
    await until(lambda: reported(site, "before"), 1)
    await core.twins.desire("pump-1", {"interval": 0}, actor="test")
    await until(lambda: wanted_here(gateway), 0)
    await backup(core, site.folder / "backup")
    for number in (1, 2, 3):
        await core.twins.desire("pump-1", {"interval": number}, actor="test")
    await until(lambda: wanted_here(gateway), 3)
    await leaf.report({"after": 1})
    await until(lambda: reported(site, "after"), 1)
    found = Anomaly(
        id="here", detector="too-hot", device="pump-1", metric="temperature", time=now() - 1000, observed=91.0,
        expected=60.0, score=1.5, severity=Severity.CRITICAL, explanation="91 is above 60", found=now(),
    )  # fmt: skip
    await gateway.anomalies.add([found])
    await gateway.twins.report(GATEWAY, {"uplink": {"waiting": 7}})
    await until(lambda: told_of_gateway(site), 7)

    await site.restore(site.folder / "backup")

    await until(lambda: reported(site, "after"), 1)
    await until(lambda: wanted_here(gateway), 0)
    await (await site.core.open()).twins.desire("pump-1", {"interval": 77}, actor="test")
    await until(lambda: wanted_here(gateway), 77)

    async def alerts():
        return [each["explanation"] for each in await site.core.call("list_anomalies", device="pump-1")]

    await until(alerts, ["91 is above 60"])
    assert (await gateway.devices.get("pump-1")).lifecycle == "active"
    await leaf.disconnect()


async def reported(site, name):
    return (await site.core.call("get_twin", device_id="pump-1"))["reported"].get(name)


async def told_of_gateway(site):
    return (await site.uplink.state._leaf(GATEWAY)).reported.get("uplink", {}).get("waiting")


async def wanted_here(gateway):
    return (await gateway.twins.get("pump-1")).desired.document.get("interval")
