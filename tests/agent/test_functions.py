"""Functions on a gateway: deployed from the core, fed by its leaves, and their outputs at the core."""

import asyncio
import time
from array import array

import pytest
import wasmtime
from attrs import evolve
from fleetcore_edge.runner.records import Batch, EdgeAlert, FunctionRefused, Output

from fleetcore.errors import StorageError
from fleetcore.model.edge import Function, Resources
from tests.agent.conftest import MODULES, until

DEADBAND = Function(metrics=("temperature",), every_ms=20, config={"deadband": 5}, replaces_raw=True)


def now():
    return time.time_ns() // 1_000_000


async def campaign(site, name="c"):
    return (await site.core.call("get_campaign", campaign=name))["state"]


@pytest.fixture
async def running(site):
    """The gateway with a deadband on temperatures, and a leaf."""
    await site.start()
    await deployed(site)
    leaf = await site.leaf("pump-1")
    await leaf.connect()
    yield leaf
    await leaf.disconnect()


async def test_a_function_filters_at_the_edge_and_its_readings_reach_the_core_alone(site, running):
    began = now() - 100_000
    for number, value in enumerate((20.0, 21.0, 22.0, 26.0, 27.0, 33.0)):
        await running.send({"temperature": value, "humidity": 40.0, "time": began + number * 1000}, 2)

    await until(lambda: count(site, "humidity"), 6)
    await until(lambda: count(site, "temperature"), 3)

    assert [value for _, value in await site.at_core("pump-1")] == [20.0, 26.0, 33.0]
    assert (await site.function("deadband"))["state"] == "running"
    gateway = await site.gateway.open()
    assert len((await gateway.telemetry.query("pump-1", "temperature")).time) == 6, "the gateway has them all"


async def test_every_function_runs_after_a_restart_without_the_core(site, running):
    """The modules of functions that have not started again yet stay where they are."""
    await site.release("smoothing", function=Function(metrics=("humidity",), config={"seconds": 10}))
    await site.core.call("deploy_function", function="smoothing", campaign="c2", gateways=["gw-1"])
    await until(lambda: campaign(site, "c2"), "succeeded")
    site.cut()
    await running.disconnect()
    await site.stop()
    toml = site.folder / "gateway" / "fleet.toml"
    lines = [line for line in toml.read_text().splitlines(keepends=True) if not line.startswith("http = ")]
    toml.write_text("".join(lines))
    await site.start()

    async def states():
        return {name: each.state for name, each in site.uplink.functions.running.items()}

    await until(states, {"deadband": "running", "smoothing": "running"})


async def has_room(site):
    reported = (await site.core.call("get_twin", device_id="gw-1"))["reported"]
    return "resources" in reported


async def count(site, metric):
    return len(await site.at_core("pump-1", metric))


async def test_a_function_that_traps_is_stopped_and_the_readings_go_on_as_they_are(site, running):
    loops = bytes(wasmtime.wat2wasm(LOOPS))
    await site.release("loops", module=loops, function=Function(
        metrics=("pressure",), every_ms=20, replaces_raw=True, resources=Resources(time_ms=20, fuel=10_000_000_000),
    ))  # fmt: skip
    await site.core.call("deploy_function", function="loops", campaign="d", gateways=["gw-1"])
    await until(lambda: campaign(site, "d"), "succeeded")

    await running.send({"pressure": 3.0, "time": now() - 1000}, 1)

    await until(lambda: count(site, "pressure"), 1)

    async def stopped():
        site.uplink.functions._look.set()
        return (await site.function("loops") or {}).get("code")

    await until(stopped, "out_of_time")
    await running.send({"temperature": 1.0, "time": now() - 1000}, 1)
    await until(lambda: count(site, "temperature"), 1)


async def test_a_function_that_cannot_be_loaded_fails_its_campaign_with_the_reason(site, running):
    await site.release("deadband", seq=2, module=b"no module", function=DEADBAND)

    await site.core.call("deploy_function", function="deadband", campaign="d", gateways=["gw-1"])

    async def failed():
        found = await (await site.core.open()).campaigns.execution("d", "gw-1")
        return found.state.value, found.code

    assert (await until(failed, ("failed", "module_invalid")))[0] == "failed"
    await running.send({"temperature": 1.0, "time": now() - 1000}, 1)
    await until(lambda: count(site, "temperature"), 1)

    async def one():
        return ((await site.function("deadband")) or {}).get("version")

    await until(one, "1.0.0")


async def test_a_function_runs_on_without_the_core_and_after_a_restart(site, running):
    site.cut()
    await running.disconnect()
    await site.stop()
    await site.start()
    running.endpoint = (await site.gateway.open()).protocols["websocket"].endpoints()[0]
    await running.connect()
    for number, value in enumerate((50.0, 51.0, 60.0)):
        await running.send({"temperature": value, "time": now() - 10_000 + number}, 1)
    gateway = await site.gateway.open()

    async def here():
        return [series.metric for series in await gateway.storage.series_of("pump-1") if "/" in series.metric]

    await until(here, ["deadband/temperature"])
    site.mend()
    await until(lambda: count(site, "temperature"), 2)


async def test_an_undeployed_function_is_removed(site, running):
    await site.core.call("undeploy_function", gateway_id="gw-1", function="deadband")

    async def gone():
        return site.uplink.functions.running == {} and await site.function("deadband") is None

    await until(gone)
    for number in range(3):
        await running.send({"temperature": 20.0, "time": now() - 10_000 + number}, 1)
    await until(lambda: count(site, "temperature"), 3)


async def test_readings_that_a_function_does_not_select_reach_the_core_as_they_are(site):
    await site.start()
    leaf = await site.leaf("pump-1")
    await leaf.connect()
    await deployed(site, where="type = 'press'")

    for number in range(3):
        await leaf.send({"temperature": 20.0, "time": now() - 10_000 + number}, 1)

    await until(lambda: count(site, "temperature"), 3)
    await leaf.disconnect()


async def test_readings_from_before_a_function_reach_the_core_as_they_are(site):
    await site.start()
    leaf = await site.leaf("pump-1")
    await leaf.connect()
    site.cut()
    for number in range(30):
        await leaf.send({"temperature": 20.0, "time": now() - 10_000 + number}, 1)
    begun, deliver = asyncio.Event(), site.uplink.backlog.deliver

    async def later(entries):
        await begun.wait()
        await deliver(entries)

    site.uplink.backlog.deliver = later
    site.mend()
    await deployed(site)
    await leaf.send({"temperature": 20.0, "time": now() - 5_000}, 1)
    await leaf.send({"temperature": 20.1, "time": now() - 4_000}, 1)
    begun.set()

    await until(lambda: count(site, "temperature"), 31)
    await leaf.disconnect()


async def deployed(site, **more):
    """The deadband runs, with changes of its contract."""
    await site.release("deadband", function=evolve(DEADBAND, **more))
    await until(lambda: has_room(site))
    await site.core.call("deploy_function", function="deadband", campaign="c", gateways=["gw-1"])
    await until(lambda: campaign(site), "succeeded")


async def test_functions_are_fed_after_a_fault_of_their_manager(site, running, monkeypatch):
    manager = site.uplink.functions
    monkeypatch.setattr(manager, "_reconcile", fails_once(manager._reconcile))
    manager._look.set()
    await until(lambda: restarted(site), True)

    await running.send({"temperature": 50.0, "time": now() - 10_000}, 1)

    await until(lambda: count(site, "temperature"), 1)


async def test_functions_run_while_they_cannot_be_reported(site, running, monkeypatch):
    manager = site.uplink.functions
    monkeypatch.setattr(manager, "_report", fails_once(manager._report))
    feed = manager.running["deadband"].feed
    manager._look.set()

    await running.send({"temperature": 50.0, "time": now() - 10_000}, 1)

    await until(lambda: count(site, "temperature"), 1)
    assert manager.running["deadband"].feed is feed


async def test_a_full_disk_under_one_function_leaves_the_others(site, running, monkeypatch):
    manager = site.uplink.functions
    monkeypatch.setattr(manager, "_module", fails_once(manager._module))
    monkeypatch.setattr("fleetcore_edge.functions.manager._RETRY_S", 0.05)
    module = (MODULES / "deadband.wasm").read_bytes()
    await site.release("other", module=module, function=evolve(DEADBAND, metrics=("pressure",)))

    await site.core.call("deploy_function", function="other", campaign="d", gateways=["gw-1"])

    await until(lambda: campaign(site, "d"), "succeeded")
    await running.send({"temperature": 50.0, "time": now() - 10_000}, 1)
    await until(lambda: count(site, "temperature"), 1)


def fails_once(work):
    left = [OSError(28, "No space left on device")]

    async def failing(*given):
        if left:
            raise left.pop()
        return await work(*given)

    return failing


async def test_what_cannot_take_the_place_of_a_function_is_compiled_once(site, running, monkeypatch):
    manager, gateway, loads = site.uplink.functions, await site.gateway.open(), []

    async def load(function):
        loads.append(function.name)
        raise FunctionRefused("It takes too long to compile", code="compile_limit")

    monkeypatch.setattr(manager._runner, "load", load)
    entry = (await gateway.twins.get("gw-1")).desired.document["functions"]["deadband"]
    await gateway.twins.desire("gw-1", {"functions": {"deadband": {"config": {"deadband": 9}}}}, actor="test")
    await until(lambda: code(site), "compile_limit")

    for _ in range(3):
        await manager._reconcile()
    assert loads == ["deadband"]

    await gateway.twins.desire("gw-1", {"functions": {"deadband": entry}}, replace=True, actor="test")
    await until(lambda: code(site), None)
    assert manager.running["deadband"].state == "running"


async def code(site):
    return (await site.function("deadband") or {}).get("code")


async def test_a_module_goes_when_no_function_runs_it(site, running):
    folder = site.folder / "gateway" / "functions"
    (before,) = folder.glob("*.wasm")
    await site.release("deadband", seq=2, module=(MODULES / "smoothing.wasm").read_bytes(), function=DEADBAND)

    await site.core.call("deploy_function", function="deadband", campaign="d", gateways=["gw-1"])

    await until(lambda: campaign(site, "d"), "succeeded")
    (after,) = folder.glob("*.wasm")
    assert after != before


async def restarted(site):
    return (await site.gateway.open()).supervisor.states["uplink functions"].failures > 0


async def test_outputs_that_are_too_many_for_one_message_are_stored(site, running):
    feed, times = site.uplink.functions.running["deadband"].feed, [now() - 100_000 + n for n in range(8000)]
    values = [float(n) for n in range(8000)]
    given = Batch(
        series=[("pump-1", "temperature", "")], at=array("I", [0] * 8000), time=array("q", times),
        value=array("d", values),
    )  # fmt: skip

    await feed._give(Output(readings=given))

    await until(lambda: count(site, "temperature"), 8000)
    assert feed.counts["refused"] == 0


async def test_outputs_wait_while_the_gateways_store_is_full(site, running, monkeypatch):
    feed, fleet = site.uplink.functions.running["deadband"].feed, await site.gateway.open()
    given, waits = Batch(
        series=[("pump-1", "temperature", "")], at=array("I", [0]), time=array("q", [now() - 1000]),
        value=array("d", [7.0]),
    ), []  # fmt: skip
    of = fleet.sessions.of

    async def full(device):
        waits.append(device)
        if len(waits) < 3:
            raise StorageError("The disk is full", code="storage_full")
        return await of(device)

    monkeypatch.setattr(fleet.sessions, "of", full)
    monkeypatch.setattr("fleetcore_edge.functions.feed._AGAIN_S", 0.01)

    await feed._give(Output(readings=given))

    await until(lambda: count(site, "temperature"), 1)
    assert (len(waits), feed.counts["refused"]) == (3, 0)


async def test_outputs_about_other_devices_and_times_are_refused_and_counted(site, running, caplog):
    feed = site.uplink.functions.running["deadband"].feed

    def alert(device, metric, time):
        return EdgeAlert(device, metric, "warning", "hot", "too hot", 1.0, time)

    given = Batch(
        series=[("stranger", "x", ""), ("pump-1", "no metric", "")], at=array("I", [0, 1]),
        time=array("q", [now(), now()]), value=array("d", [1.0, 1.0]),
    )  # fmt: skip
    alerts = [
        alert("stranger", "temperature", now()),
        alert("a line\nof a log", "temperature", now()),
        alert("pump-1", "temperature", now() + 10**10),
        alert("pump-1", "", now()),
    ]

    await feed._give(Output(readings=given, alerts=alerts, log=["one\nERROR two"]))

    async def found():
        return [(each["device"], each["metric"]) for each in await site.core.call("list_anomalies")]

    await until(found, [("pump-1", "deadband")])
    assert [device.id for device in await (await site.core.open()).devices.list()] == ["gw-1", "pump-1"]
    assert (feed.counts["alerts"], feed.counts["refused"]) == (1, 5)
    assert not [each for each in caplog.messages if "\n" in each]


LOOPS = """
(module
  (memory (export "memory") 1)
  (func (export "fc_abi") (result i32) (i32.const 1))
  (func (export "fc_alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "fc_configure") (param i32 i32) (result i32) (i32.const 0))
  (func (export "fc_run") (param i32 i32) (result i64) (loop $again (br $again)) (i64.const 0))
)
"""
