"""The overview counts what the fleet is, shows each caller only its devices, and costs little however often it is asked."""

import pytest

from fleetcore.calls.caller import Caller, owner
from fleetcore.calls.overview import get_overview
from fleetcore.errors import Refused
from fleetcore.fleet.overview import Overview
from fleetcore.model.anomaly import Anomaly
from fleetcore.model.device import Lifecycle
from fleetcore.model.kinds import Severity
from fleetcore.model.overview import Order
from fleetcore.query.parse import parse

HOUR = 3_600_000


@pytest.fixture
async def devices(fleet, clock):
    """Five devices: heard from 3 h, 30 min and 1 min ago, connected, and never."""
    for name in ("old", "quiet", "well", "linked", "never"):
        await fleet.devices.register(name, "pump" if name in ("old", "never") else "valve")
    now = clock.now_ms()
    for name, ago in (("old", 3 * HOUR), ("quiet", HOUR // 2), ("well", 60_000)):
        fleet.presence.last[name] = now - ago
    fleet.presence.opened("linked")


def anomaly(fleet, clock, device, number, ago_ms=0):
    at = clock.now_ms() - ago_ms
    made = Anomaly(
        id=f"{device}-{number}", detector="hot", device=device, metric="t", time=at, observed=9.0, expected=1.0,
        score=3.0, severity=Severity.WARNING, explanation="too hot", found=at,
    )  # fmt: skip
    return fleet.anomalies.add([made])


async def asked(fleet, **given):
    return await get_overview(owner(fleet, "test"), **given)


async def test_devices_are_counted_by_connectivity(fleet, devices):
    found = await asked(fleet)

    assert found.counts == {"devices": 5, "online": 2, "asleep": 0, "late": 1, "offline": 1, "never": 1}
    assert [(item.id, item.connectivity) for item in found.first] == [
        ("old", "offline"), ("quiet", "late"), ("well", "online"), ("linked", "online"), ("never", "never"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("order", "first"),
    [
        ("recent", ["linked", "well", "quiet", "old", "never"]),
        ("id", ["linked", "never", "old", "quiet", "well"]),
        ("alerts", ["quiet", "well", "old", "linked", "never"]),
    ],
)
async def test_devices_come_in_the_order_asked_for(fleet, clock, devices, order, first):
    for number in range(3):
        await anomaly(fleet, clock, "quiet", number)
    await anomaly(fleet, clock, "well", 0)

    assert [item.id for item in (await asked(fleet, order=Order(order))).first] == first
    assert [item.id for item in (await asked(fleet, order=Order(order), limit=2)).first] == first[:2]


async def test_a_query_limits_devices_and_alerts(fleet, clock, devices):
    await anomaly(fleet, clock, "old", 0)
    await anomaly(fleet, clock, "well", 0)

    found = await asked(fleet, where="type = 'pump'")

    assert (found.counts["devices"], [item.id for item in found.first]) == (2, ["old", "never"])
    assert (found.alerts, [item.device for item in found.anomalies]) == (1, ["old"])
    with pytest.raises(Refused):
        await asked(fleet, where="type = ")


async def test_only_the_alerts_of_the_last_hour_count_and_retired_devices_do_not(fleet, clock, devices):
    await anomaly(fleet, clock, "old", 0, ago_ms=2 * HOUR)
    await anomaly(fleet, clock, "old", 1)
    await fleet.lifecycles.move("never", Lifecycle.RETIRED)

    found = await asked(fleet)

    assert (found.alerts, found.counts["devices"], found.counts["never"]) == (1, 4, 0)


async def test_a_caller_sees_its_devices_alone_and_nothing_of_the_server(fleet, clock, devices):
    await fleet.groups.create("mine")
    await fleet.groups.add("mine", ["quiet", "never"])
    await fleet.operators.grant("ann", "viewer", scope="group:mine")
    token = (await fleet.operators.create_token("ann")).token
    await anomaly(fleet, clock, "old", 0)

    found = await get_overview(Caller(fleet, await fleet.operators.authenticate(token)))

    assert (found.counts["devices"], [item.id for item in found.first]) == (2, ["quiet", "never"])
    assert (found.alerts, found.traffic, found.mirrors, found.campaigns, found.operations) == (0, None, [], [], [])


async def test_sweeps_of_one_query_take_4_percent_of_the_time_at_most(fleet, clock, devices):
    now, sweeps = [0.0], []

    class Counted(type(fleet.search)):
        async def watched_ids(self, where):
            sweeps.append(where)
            now[0] += 2.0  # a sweep takes two seconds
            return await super().watched_ids(where)

    search = Counted(fleet.search.documents, clock, fleet.search.columns)
    overview = Overview(search, fleet.presence, clock, monotonic_s=lambda: now[0], busy_s=lambda: now[0])
    for _ in range(1000):
        await overview.sweep(None, Order.SILENT, {})
        now[0] += 0.1

    assert len(sweeps) == pytest.approx(100 / 52, abs=1)
    await overview.sweep(parse("type = 'pump'"), Order.SILENT, {})
    assert len(sweeps) == pytest.approx(100 / 52 + 1, abs=1)


async def test_devices_registered_and_erased_since_are_noticed(fleet, clock, devices):
    overview = Overview(fleet.search, fleet.presence, clock, monotonic_s=lambda: 0.0, busy_s=lambda: 0.0)
    before = await overview.sweep(None, Order.ID, {})

    await fleet.devices.register("new", "pump")
    await fleet.erasing.erase("old")

    after = await overview.sweep(None, Order.ID, {})
    assert before.first == ["linked", "never", "old", "quiet", "well"]
    assert (after.first, after.counts["devices"]) == (["linked", "never", "new", "quiet", "well"], 5)
