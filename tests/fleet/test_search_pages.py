"""Pages of devices: put together they are what the query selects, and none costs more than its share of the fleet."""

import pytest
import pytest_asyncio

from fleetcore import IoTFleetManager
from fleetcore.fleet.rights import scope_clause
from fleetcore.fleet.search import SCAN
from fleetcore.model.device import Device
from fleetcore.model.operator import Permission
from fleetcore.model.store import Commit
from fleetcore.query.ast import And, Or
from fleetcore.testing.clock import MovableClock

QUERIES = [
    None,
    "type = 'a'",
    "tags has 'x'",
    "lifecycle = 'registered' and attributes.n > 10",
    "attributes.n > 10",
    "not type = 'a'",
    "reported.on = true",
    "type = 'a' and reported.on = true",
    "group in ('top')",
    "group in ('inner') or group in ('other')",
    "group in ('top') and reported.on = true",
    "group in ('gone')",
    "group in ('gone') or group in ('inner')",
    "not group in ('top')",
    "group in ('top') or type = 'b'",
]


async def sixty(fleet):
    """Sixty devices: some in a group that lies in another, in both, or in a third; some that reported."""
    ids = [f"d-{number:02d}" for number in range(60)]
    for number, device in enumerate(ids):
        await fleet.devices.register(
            device, "abc"[number % 3], tags=["x"] if number % 4 == 0 else [], attributes={"n": number}
        )
        if number % 5 == 0:
            await fleet.twins.report(device, {"on": number % 2 == 0})
    await fleet.groups.create("top")
    await fleet.groups.create("inner", within=["top"])
    await fleet.groups.create("other")
    await fleet.groups.add("inner", ids[:20])
    await fleet.groups.add("top", ids[10:30])
    await fleet.groups.add("other", ids[15:45])
    return ids


@pytest.fixture
async def devices(fleet):
    return await sixty(fleet)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared():
    """A fleet for all tests that only read it, and its sixty devices."""
    async with IoTFleetManager(clock=MovableClock()) as manager:
        fleet = await manager.open()
        yield fleet, await sixty(fleet)


async def pages(fleet, where, limit, **options):
    after, found, count = None, [], 0
    while count == 0 or after is not None:
        page = await fleet.search.page(where, after=after, limit=limit, **options)
        assert len(page.ids) <= limit
        found, after, count = found + list(page.ids), page.after, count + 1
        assert count <= 200
    return found


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("scan", [3, 17, SCAN])
@pytest.mark.parametrize("where", QUERIES)
async def test_all_pages_are_all_devices_that_a_query_selects(shared, where, scan):
    fleet, devices = shared
    selected = [device for device in devices if where is None or await fleet.search.is_true(where, device)]

    for limit in (1, 7, 1000):
        assert await pages(fleet, where, limit, scan=scan) == selected


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("scopes", [["group:inner"], ["group:inner", "group:other"], ["group:top", "type = 'b'"]])
@pytest.mark.parametrize("where", [query for query in QUERIES if query])
async def test_a_scope_beside_a_query_selects_what_both_do(shared, where, scopes):
    fleet, devices = shared
    clauses = [scope_clause(scope) for scope in scopes]
    narrowed = And((Or(tuple(clauses)), fleet.search.resolved(where)))
    selected = [device for device in devices if await fleet.search.is_true(narrowed, device)]

    for limit in (1, 7, 1000):
        assert await pages(fleet, narrowed, limit) == selected


async def test_devices_that_come_and_go_between_pages_are_shown_once_or_not(fleet, devices):
    first = await fleet.search.page("group in ('top')", limit=5)
    await fleet.erasing.erase(devices[2])
    await fleet.erasing.erase(first.after)
    await fleet.devices.register("d-05a", "a")
    await fleet.groups.add("top", ["d-05a"])

    rest = await fleet.search.page("group in ('top')", after=first.after, limit=100)

    assert list(rest.ids) == ["d-05", "d-05a", *devices[6:30]]


@pytest.mark.parametrize("limit", [1, 100, 1000])
@pytest.mark.parametrize(
    "where", ["reported.on = true", "attributes.n = 1 and reported.on = true", "name = 'none'", "type = 'none'"]
)
async def test_a_page_that_finds_nothing_looks_at_a_bounded_part_of_the_fleet(fleet, monkeypatch, where, limit):
    monkeypatch.setattr(fleet.search, "columns", None)  # as in a process that has just begun
    made = [
        Device(id=f"d-{number:05d}", type="a", attributes={"n": number % 700}, created=1, updated=1)
        for number in range(3 * SCAN)
    ]
    await fleet.storage.commit(Commit(puts=tuple(fleet.devices.records.put(device) for device in made)))
    steps, find = [], fleet.storage.find

    async def counted(kind, **options):
        steps.append(kind)
        return await find(kind, **options)

    monkeypatch.setattr(fleet.storage, "find", counted)
    page = await fleet.search.page(where, limit=limit)

    assert page.ids == ()
    assert len(steps) <= 10
    assert page.after is None or page.after < made[SCAN * 2].id


@pytest.mark.parametrize("group", ["top", "inner", "other", "gone"])
async def test_a_group_scope_is_answered_from_memory_as_its_query_is(fleet, devices, monkeypatch, group):
    await fleet.operators.grant("ann", "viewer", scope=f"group:{group}")
    rights = await fleet.operators.authenticate((await fleet.operators.create_token("ann")).token)
    await fleet.erasing.erase(devices[0])
    selected = await fleet.search.ids(scope_clause(f"group:{group}"))

    with monkeypatch.context() as store:
        store.setattr(fleet.storage, "get", None)  # no read may happen
        allowed = [device for device in devices if await rights.allows(Permission.DEVICES_READ, device)]

    assert allowed == selected
