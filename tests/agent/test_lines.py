"""Lines between a gateway and its core that flap or stall, and two speakers at one time."""

import asyncio
import time

import pytest
from fleetcore_edge.uplink import link as links
from fleetcore_edge.uplink.credentials import Credentials
from fleetcore_websocket.plugin import open_client

from fleetcore.errors import Unavailable
from fleetcore.model.credential import LocalCredential
from fleetcore.model.message import Inbound
from fleetcore.wire.messages import TELEMETRY
from fleetcore.wire.strict_json import dumps
from tests.agent.conftest import GATEWAY, Site, until


def now():
    return time.time_ns() // 1_000_000


async def count(site):
    return len(await site.at_core("pump-1"))


@pytest.fixture
async def leaf(site):
    await site.start()
    device = await site.leaf("pump-1")
    await device.connect()
    yield device
    await device.disconnect()


async def test_a_line_that_is_cut_over_and_over_loses_and_doubles_nothing(site, leaf, monkeypatch):
    monkeypatch.setattr(links, "_WAITS_S", (0.05,))
    began, sent = now() - 1_000_000, []
    for number in range(200):
        sent.append((began + 1000 * number, float(number)))
        await leaf.send({"temperature": float(number), "time": sent[-1][0]}, 1)
        if number % 20 == 10:
            await until(lambda: connected(site), True)
            site.wire.cut(reset=number % 40 == 10)

    await until(lambda: count(site), 200)
    assert await site.at_core("pump-1") == sent
    assert site.uplink.link.connections > 5
    assert site.uplink.status()["lost"] == 0


async def connected(site):
    return site.uplink.link.state.connected


async def test_a_line_that_stalls_without_closing_loses_nothing_and_leaves_are_served_meanwhile(site, leaf):
    began = now() - 1_000_000
    await leaf.send({"temperature": 0.0, "time": began}, 1)
    await until(lambda: count(site), 1)
    site.wire.stall()
    for number in range(1, 60):
        reply = await leaf.send({"temperature": float(number), "time": began + 1000 * number}, 1)
        assert reply.error is None
    assert await count(site) == 1

    site.mend()
    site.wire.cut(reset=True)

    await until(lambda: count(site), 60)
    assert await site.at_core("pump-1") == [(began + 1000 * number, float(number)) for number in range(60)]


async def test_readings_that_reach_the_core_twice_by_two_ways_are_there_once(site, leaf):
    began = now() - 1_000_000
    await leaf.send({"temperature": 0.0, "time": began}, 1)
    await until(lambda: count(site), 1)
    core = await site.core.open()
    body = [{"metric": "temperature", "value": float(number), "time": began + 1000 * number} for number in range(20)]
    session = await core.plane.authenticate(LocalCredential("pump-1"), protocol="test")
    answered = asyncio.get_running_loop().create_future()
    message = Inbound(type=TELEMETRY, subject="pump-1", payload=dumps(body))
    assert core.ingest.deliver(session, message, answered.set_result)
    await answered
    await leaf.send(body, 20)

    async def passed():
        return site.uplink.status()["readings"]["live"].get("sent")

    await until(passed, 20)  # the gateway itself had one of them
    assert await site.at_core("pump-1") == [(began + 1000 * number, float(number)) for number in range(20)]


async def takes_the_line(site, secrets, time):
    """Whether a second agent sent a reading, before the first took the line back."""
    endpoint = (await site.core.open()).protocols["websocket"].endpoints()[0]
    try:
        async with open_client(endpoint, secrets) as second:
            reply = await second.send(TELEMETRY, {"temperature": -1.0, "time": time}, subject="pump-1")
    except Unavailable:
        return False
    return reply.error is None


async def test_two_agents_with_one_identity_take_the_line_from_each_other_and_lose_nothing(
    site, leaf, monkeypatch, caplog
):
    monkeypatch.setattr(links, "_WAITS_S", (0.05,))
    began, sent, other = now() - 1_000_000, [], []
    secrets = Credentials(site.folder / "gateway" / "uplink", GATEWAY, site.uplink.link._clock).secrets()
    for number in range(100):
        sent.append((began + 1000 * number, float(number)))
        await leaf.send({"temperature": float(number), "time": sent[-1][0]}, 1)
        if number % 20 == 10:
            await until(lambda: connected(site), True)
            other.append((began + 1000 * number + 500, -1.0))
            await until(lambda: takes_the_line(site, secrets, other[-1][0]), True)

    await until(lambda: count(site), 105)
    assert await site.at_core("pump-1") == sorted(sent + other)
    assert site.uplink.link.connections > 1, "the second one took the line"
    assert site.uplink.status()["taken_over"] > 0
    assert "Another agent has connected with this gateway's identity" in caplog.text


async def texts(site, device):
    storage = (await site.core.open()).storage
    found = [each.index for each in await storage.series_of(device) if each.metric == "note"]
    return [text.value for index in found async for text in storage.read_texts(index, 0, 4 * 10**12)]


@pytest.mark.parametrize("limit", [262_144, 16_384])
async def test_long_readings_of_an_outage_reach_the_core_in_messages_that_it_takes(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(links, "_WAITS_S", (0.05,))
    async with Site(tmp_path, f"[limits]\nmessage_bytes = {limit}\n") as site:
        await site.start()
        leaves = [await site.leaf(name) for name in ("pump-1", "pump-2", "pump-3")]
        for leaf in leaves:
            await leaf.connect()
            await leaf.send({"temperature": 0.0}, 1)
        site.cut()
        began, sent = now() - 1_000_000, [f"{number}".ljust(1000, ".") for number in range(400)]
        for leaf in leaves:
            for at in range(0, 400, 200):
                body = [{"metric": "note", "value": sent[n], "time": began + n} for n in range(at, at + 200)]
                assert (await leaf.send(body, 200)).error is None

        site.mend()

        for leaf in leaves:
            await until(lambda: texts(site, leaf.secrets.device), sent)  # noqa: B023  # awaited here
            await leaf.disconnect()
        assert site.uplink.status()["refused_readings"] == []
