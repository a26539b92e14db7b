"""A gateway that runs out of room: what goes, in which order, and what is told of it."""

import asyncio
import time

import pytest

from fleetcore.errors import Refused, Unavailable
from fleetcore.model.anomaly import Anomaly, Severity
from fleetcore.model.store import Commit, SeriesRequest
from fleetcore.model.telemetry import SeriesKind, TelemetryBatch, TextReading
from tests.agent.conftest import until

READINGS = 3000


def now():
    return time.time_ns() // 1_000_000


async def fills(site, began):
    """A cut gateway, with a commit for each of the readings of a leaf, and a text."""
    await site.start()
    leaf = await site.leaf("pump-1")
    await leaf.connect()
    await leaf.send({"temperature": 0.0, "time": began - 1000}, 1)
    await until(lambda: count(site), 1)
    await until(lambda: known(site), True)
    fleet = await site.gateway.open()
    for each in fleet.consumers:
        await each.keep()  # so that what is sent is known to be sent
    site.cut()
    await until(lambda: connected(site), False)
    storage = fleet.storage
    level, mode = await storage.intern(
        [SeriesRequest("pump-1", "temperature"), SeriesRequest("pump-1", "mode", kind=SeriesKind.TEXT)]
    )
    made = [
        storage.commit(Commit(readings=TelemetryBatch.of([level.index], [began + 1000 * number], [float(number)])))
        for number in range(READINGS)
    ]
    await asyncio.gather(*made)
    spoken = TextReading(series=mode.index, time=began, received=began, value="auto", quality=0, seq=-1)
    await storage.commit(Commit(texts=(spoken,)))
    return leaf


async def count(site, metric="temperature"):
    return len(await site.at_core("pump-1", metric))


async def known(site):
    return "pump-1" in site.uplink.status()["leaves"]


async def connected(site):
    return site.uplink.link.state.connected


def near(site, *answers):
    """The folder is near its bound for so many looks."""
    left = list(answers)

    async def answer(_more=0):
        return left.pop(0) if left else False

    site.uplink.room._near = answer


async def test_what_the_feed_gives_up_reaches_the_core_from_the_packed_readings(site):
    began = now() - 10_000_000
    leaf = await fills(site, began)
    near(site, True, False)

    await site.uplink.room.look()

    storage = (await site.gateway.open()).storage
    first = (await storage.feed(site.uplink.behind.archive.until, 1))[0].position
    assert first > READINGS // 2
    assert site.uplink.status()["waiting"] >= READINGS // 2
    await leaf.disconnect()
    await site.stop()
    await site.start()
    site.mend()
    await until(lambda: count(site), READINGS + 1)
    found = await site.at_core("pump-1")
    assert found[1:] == [(began + 1000 * number, float(number)) for number in range(READINGS)]
    await until(lambda: waiting(site), 0)
    status = site.uplink.status()
    assert (status["lost"], status["dropped"], status["trimmed"]) == (0, 0, 0)


async def waiting(site):
    return site.uplink.status()["waiting"]


async def test_past_the_bound_the_oldest_readings_go_counted_and_alerts_and_new_readings_stay(site):
    began = now() - 10_000_000
    leaf = await fills(site, began)
    fleet = await site.gateway.open()
    found = Anomaly(
        id="here", detector="too-hot", device="pump-1", metric="temperature", time=began, observed=91.0,
        expected=60.0, score=1.5, severity=Severity.CRITICAL, explanation="91 is above 60", found=now(),
    )  # fmt: skip
    await fleet.anomalies.add([found])
    near(site, True, True, True, True, False)

    await site.uplink.room.look()

    status = site.uplink.status()
    assert status["dropped"] + status["lost"] >= 2 * READINGS // 16
    assert status["lost"] > 0
    newest = now()
    reply = await leaf.send({"temperature": 7.0, "time": newest}, 1)
    assert reply.error is None
    site.mend()
    await until(lambda: alerts(site), ["91 is above 60"])
    await until(lambda: waiting(site), 0)
    await until(lambda: count(site), READINGS + 2 - status["lost"])
    there = [moment for moment, _ in await site.at_core("pump-1")]
    assert there[1] == began + 1000 * status["lost"], "the oldest went"
    assert there[-1] == newest
    await leaf.disconnect()


async def alerts(site):
    return [each["explanation"] for each in await site.core.call("list_anomalies", device="pump-1")]


async def test_a_download_displaces_what_the_core_has_and_nothing_else(site):
    began = now() - 10_000_000
    leaf = await fills(site, began)
    near(site, *[True] * 5)

    with pytest.raises(Unavailable) as full:
        await site.uplink.room.admit(1000)

    assert full.value.code == "storage_full"
    assert site.uplink.status()["lost"] == 0
    site.mend()
    await until(lambda: count(site), READINGS + 1)
    await until(lambda: waiting(site), 0)
    near(site, True, True, True, False)
    await site.uplink.room.admit(1000)
    status = site.uplink.status()
    assert status["lost"] == 0
    assert status["dropped"] >= READINGS // 16
    await leaf.disconnect()


async def test_a_download_of_more_than_half_of_the_bound_is_refused(site):
    await site.start()

    with pytest.raises(Refused) as refused:
        await site.uplink.room.admit(200 << 20)

    assert refused.value.code == "limit_exceeded"
    assert "disk_mib" in refused.value.remedy
