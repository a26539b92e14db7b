"""A gateway's agent, a real process, on a machine whose clock is wrong: at 1970, or ahead."""

import asyncio
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from fleetcore_edge.clock.held import FOLDER as HELD
from fleetcore_edge.clock.journal import Entry, Journal
from fleetcore_edge.clock.machine import LinuxMachine
from fleetcore_mqtt.plugin import open_client as open_mqtt

from fleetcore.testing.patience import PATIENCE_S
from fleetcore.testing.ports import free_port
from fleetcore.wire import messages
from tests.agent.conftest import GATEWAY, Agent, until

pytestmark = pytest.mark.peer("faketime")
#: A reading's time comes from the gateway's time since its start and the core's answer, which is exact to its round trip.
EXACT_MS = 500
READINGS = 20_000


class FakeTime(Agent):
    """The agent on a machine whose wall clock starts at a given time."""

    def __init__(self, folder, wall):
        super().__init__(folder)
        self.wall = wall

    def environment(self):
        # The time since the machine's start is right whatever the wall clock says.
        return {
            **super().environment(), "LD_PRELOAD": str(library()), "FAKETIME": f"@{self.wall}",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1",
        }  # fmt: skip


def library():
    """Debian's libfaketime, which gives one process another wall clock."""
    return next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


def now():
    return time.time_ns() // 1_000_000


@pytest.fixture
async def leaf(site):
    """A leaf of a gateway whose agent does not run, and whose uplink is cut."""
    await site.start(listen=True)
    device = await site.leaf("pump-1")
    await until(lambda: connected(site), True)
    await site.stop()
    site.cut()
    yield device
    await device.disconnect()


async def connected(site):
    return site.uplink.link.state.connected


async def clock(site):
    """What the gateway reports of its clock at the core."""
    return (await site.core.call("get_twin", device_id=GATEWAY))["reported"].get("clock") or {}


async def sent(leaf, count):
    """Sends readings without a time; the times between which each came."""
    moments = []
    for number in range(count):
        before = now()
        reply = await leaf.send({"temperature": float(number)}, 1)
        assert reply.error is None
        moments.append((before, now()))
        await asyncio.sleep(0.01)
    return moments


def check(there, moments):
    """Every reading is there once, with its true time."""
    assert [value for _, value in sorted(there, key=lambda each: each[1])] == [
        float(each) for each in range(len(moments))
    ]
    for (moment, value), (before, after) in zip(sorted(there, key=lambda each: each[1]), moments, strict=True):
        assert before - EXACT_MS <= moment <= after + EXACT_MS, value


async def count(site):
    return len(await site.at_core("pump-1"))


@pytest.fixture
async def agents(site):
    """Starts agents on the gateway's folder, one after the other."""
    started = []

    async def start(wall):
        started.append(FakeTime(site.folder / "gateway", wall))
        await started[-1].start()
        return started[-1]

    yield start
    for agent in started:
        await agent.kill()


async def test_readings_of_an_agent_at_1970_have_their_true_times_at_the_core(site, leaf, agents):
    await agents("1970-01-01 00:01:00")
    await leaf.connect()
    moments = await sent(leaf, 50)
    aged = now() - 60_000
    await leaf.send({"values": {"humidity": 40.0}, "age_ms": 60_000}, 1)
    own = now() - 5_000
    await leaf.send({"pressure": 3.0, "time": own}, 1)
    assert await count(site) == 0
    site.mend()

    await until(lambda: count(site), 50)
    check(await site.at_core("pump-1"), moments)
    await until(lambda: there(site, "pressure"), [(own, 3.0)])
    ((moment, _),) = await site.at_core("pump-1", "humidity")
    assert abs(moment - aged) <= EXACT_MS

    await leaf.send({"temperature": 50.0}, 1)
    moments.append((now() - EXACT_MS, now()))
    await until(lambda: count(site), 51)
    check(await site.at_core("pump-1"), moments)


async def there(site, metric):
    return await site.at_core("pump-1", metric)


async def test_an_agent_that_is_killed_before_it_knows_the_time_loses_and_doubles_nothing(site, leaf, agents):
    agent = await agents("1970-01-01 00:01:00")
    await leaf.connect()
    moments = await sent(leaf, 30)
    await agent.kill()
    await leaf.disconnect()
    await agents("1970-01-01 00:00:05")
    await leaf.connect()
    for number in range(30, 60):
        before = now()
        assert (await leaf.send({"temperature": float(number)}, 1)).error is None
        moments.append((before, now()))
    site.mend()

    await until(lambda: count(site), 60)
    check(await site.at_core("pump-1"), moments)
    fleet = await site.core.open()
    assert (await fleet.dead_letters.list()) == []


async def test_an_agent_that_is_killed_while_it_submits_what_waited_loses_and_doubles_nothing(site, leaf, agents):
    folder, machine, journal = site.folder / "gateway", LinuxMachine(), Journal(site.folder / "gateway" / HELD)
    journal.open()
    begun = machine.boottime_ms() - 2 * READINGS
    start_ms = now() - machine.boottime_ms()
    for at in range(0, READINGS, 1000):
        journal.append(
            "readings",
            [
                Entry(
                    machine.boot_id(),
                    begun + number,
                    "pump-1",
                    "telemetry",
                    "pump-1",
                    b'{"temperature": %d}' % number,
                    receipt=f"r{number}",
                )
                for number in range(at, at + 1000)
            ],
        )
    agent = await agents("1970-01-01 00:01:00")
    site.mend()

    async def some():
        return await count(site) > 0

    await until(some)
    await agent.kill()
    known = Journal(folder / HELD)
    known.open()
    assert known.waiting()["readings"] > 0, "it was killed in the middle"
    await agents("1970-01-01 00:01:00")
    await until(lambda: count(site), READINGS)

    found = await site.at_core("pump-1")
    assert [value for _, value in found] == [float(number) for number in range(READINGS)]
    assert np.ptp([time - number for number, (time, _) in enumerate(found)]) == 0, "all by one decision"
    assert abs(found[0][0] - (start_ms + begun)) <= EXACT_MS


async def test_an_agent_that_starts_again_with_the_core_away_still_knows_the_time(site, leaf, agents):
    agent = await agents("1970-01-01 00:01:00")
    site.mend()
    await until(lambda: known(site), "core")
    site.cut()
    await agent.kill()
    await agents("1970-01-01 00:01:00")
    await leaf.connect()
    moments = await sent(leaf, 10)
    site.mend()

    await until(lambda: count(site), 10)
    check(await site.at_core("pump-1"), moments)
    log = (site.folder / "gateway" / "log").read_text()
    assert log.count("The time is not known") == 1


async def known(site):
    return (await clock(site)).get("source")


async def test_a_clock_a_day_ahead_follows_the_core_and_what_was_dated_by_it_stays(site, leaf, agents):
    begun = now()
    await agents(time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(begun / 1000 + 86_400)))
    await leaf.connect()
    await leaf.send({"humidity": 1.0}, 1)
    site.mend()
    found = await until_corrected(site)
    moments = await sent(leaf, 10)

    await until(lambda: count(site), 10)
    check(await site.at_core("pump-1"), moments)
    assert abs(found["corrected"]["by_ms"] + 86_400_000) < 5_000
    assert found["source"] == "core"
    assert "follows the core's" in (site.folder / "gateway" / "log").read_text()


async def until_corrected(site):
    async def look():
        return "corrected" in await clock(site)

    await until(look)
    return await clock(site)


async def test_an_alert_that_a_leaf_tells_at_1970_is_at_the_core_once(site, leaf, agents):
    await agents("1970-01-01 00:01:00")
    await leaf.connect()
    alert = {"detector": "own", "metric": "temperature", "time": now(), "value": 99.0}
    for _ in range(2):
        assert (await leaf.connection.send(messages.EVENTS, alert)).error is None
    site.mend()

    async def alerts():
        fleet = await site.core.open()
        return [each.time for each in await fleet.anomalies.list("pump-1")]

    await until(alerts, [alert["time"]])


async def test_devices_connect_to_a_gateway_at_1970_over_mqtt_and_do_not_get_a_wrong_time(site, agents):
    await site.start(listen=True)
    device = await site.leaf("pump-1")
    await site.stop()
    site.cut()
    toml, port = site.folder / "gateway" / "fleet.toml", free_port()
    toml.write_text(toml.read_text() + f'[protocols.mqtt]\nlisten = "mqtts://127.0.0.1:{port}"\n')
    await agents("1970-01-01 00:01:00")
    async with open_mqtt(f"mqtts://localhost:{port}", device.secrets) as client:
        reply = await client.send(messages.TELEMETRY, {"temperature": 1.0})
        asked = await client.request(messages.TIME, {})
    site.mend()

    assert reply.error is None
    assert asked.error["code"] == "not_ready"
    await until(lambda: count(site), 1)


async def test_a_machine_at_1970_enrols_and_its_ca_is_of_today(site, tmp_path):
    core = await site.core.open()
    await site.core.call("register_gateway", id="gw-2", may_register=True)
    (tmp_path / "token").write_text(await core.security.enrollment_tokens.create(device="gw-2"))
    (tmp_path / "core.pem").write_bytes(core.security.authority.ca_pem())
    at_1970 = FakeTime(tmp_path / "gw-2", "1970-01-01 00:01:00")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "fleetcore", "edge", "enroll", "gw-2", "--url", "wss://localhost:1/device/v1/ws",
        "--http", core.protocols["http"].endpoints()[0], "--token-file", str(tmp_path / "token"),
        "--ca", str(tmp_path / "core.pem"), "--listen", "127.0.0.1", "--data", str(at_1970.folder),
        env=at_1970.environment(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(PATIENCE_S):
        out, _ = await process.communicate()

    assert process.returncode == 0, out.decode()
    ca = x509.load_pem_x509_certificates((at_1970.folder / "pki" / "ca.pem").read_bytes())
    assert all(abs(each.not_valid_before_utc.timestamp() - time.time()) < 3_600 for each in ca)
