"""Groups: static, dynamic and nested; incremental membership is full evaluation; each change has its reason."""

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from fleetcore import IoTFleetManager
from fleetcore.errors import Conflict, NotFound, Refused, VersionConflict
from fleetcore.model.events import GROUP_JOINED, GROUP_LEFT
from fleetcore.query.parse import QuerySyntaxError
from fleetcore.wire import messages


async def register(fleet, *devices, **options):
    for device in devices:
        await fleet.devices.register(device, "sensor", **options)


async def events(fleet, *types):
    return [one for entry in await fleet.storage.feed(0) for one in entry.events if one.type in types]


async def test_a_static_group_holds_who_was_put_in_with_the_reason(fleet):
    await register(fleet, "a", "b")
    await fleet.groups.create("lab")

    assert await fleet.groups.add("lab", ["a", "b", "a"], actor="ann", reason="moved in") == 2
    assert await fleet.groups.add("lab", ["a"]) == 0
    assert await fleet.groups.take_out("lab", ["b"], actor="ann", reason="moved out") == 1

    assert fleet.groups.members("lab") == ["a"]
    assert [(one.group, one.why) for one in fleet.groups.memberships("a")] == [("lab", "moved in")]
    found = await events(fleet, GROUP_JOINED, GROUP_LEFT)
    assert [(one.type, one.subject, one.actor, one.reason) for one in found] == [
        (GROUP_JOINED, "a", "ann", "moved in"),
        (GROUP_JOINED, "b", "ann", "moved in"),
        (GROUP_LEFT, "b", "ann", "moved out"),
    ]


async def test_nobody_is_put_in_where_one_is_not_registered(fleet):
    await register(fleet, "a")
    await fleet.groups.create("lab")

    with pytest.raises(NotFound):
        await fleet.groups.add("lab", ["a", "ghost"])

    assert fleet.groups.members("lab") == []


async def test_a_dynamic_group_has_its_members_at_once_and_follows_changes_with_the_clause_that_turned(fleet):
    await register(fleet, "a", tags=["roof"])
    await register(fleet, "b")
    await fleet.groups.create("on-roof", query="tags has 'roof' and not reported.n > 5")
    assert fleet.groups.members("on-roof") == []

    await fleet.twins.report("a", {"n": 3})
    await fleet.wait_idle()
    assert fleet.groups.members("on-roof") == ["a"]

    await fleet.twins.report("a", {"n": 6})
    await fleet.wait_idle()
    assert fleet.groups.members("on-roof") == []
    assert [(one.type, one.subject, one.data["why"]) for one in await events(fleet, GROUP_JOINED, GROUP_LEFT)] == [
        (GROUP_JOINED, "a", "tags has 'roof' (['roof'])"),
        (GROUP_LEFT, "a", "reported.n > 5 (6)"),
    ]


async def test_a_group_within_a_group_makes_its_members_theirs(fleet):
    await register(fleet, "a", "b")
    await fleet.groups.create("site")
    await fleet.groups.create("hall", within=["site"])
    await fleet.groups.create("rack", within=["hall"])
    await fleet.groups.create("not-there", query="not group in ('site')")

    await fleet.groups.add("rack", ["a"])

    assert list(fleet.groups.of("a")) == ["hall", "rack", "site"]
    assert fleet.groups.members("site") == ["a"]
    assert fleet.groups.members("not-there") == ["b"]
    assert await fleet.search.ids("group in ('site')") == ["a"]


async def test_circles_are_refused(fleet):
    await fleet.groups.create("outer")
    await fleet.groups.create("inner", within=["outer"])
    await fleet.groups.create("x", query="group in ('outer')")

    with pytest.raises(Conflict, match="contain itself"):
        await fleet.groups.change("outer", within=["inner"])
    with pytest.raises(Conflict, match="cycle"):
        await fleet.groups.change("x", query="not group in ('x')")
    with pytest.raises(Conflict, match="cycle"):
        await fleet.groups.create("y", query="group in ('x')", within=["outer"])
    with pytest.raises(NotFound):
        await fleet.groups.create("z", within=["nowhere"])
    assert [one.id for one in fleet.groups.list()] == ["inner", "outer", "x"]


async def test_what_cannot_be_is_refused_with_the_remedy(fleet):
    await register(fleet, "a")
    await fleet.groups.create("dyn", query="type = 'sensor'")
    await fleet.groups.create("lab")

    with pytest.raises(QuerySyntaxError, match="column"):
        await fleet.groups.create("bad", query="type == 1")
    with pytest.raises(Refused, match="dynamic"):
        await fleet.groups.add("dyn", ["a"])
    with pytest.raises(Refused, match="static"):
        await fleet.groups.change("lab", query="type = 'x'")
    with pytest.raises(Conflict):
        await fleet.groups.create("lab")
    with pytest.raises(Refused, match="group name"):
        await fleet.groups.create("x\n")
    with pytest.raises(VersionConflict):
        await fleet.groups.change("lab", description="x", if_version=7)


async def test_a_group_that_a_layer_is_for_is_not_removed(manager, fleet):
    await fleet.groups.create("cold")
    await manager.set_layer("slow", {"interval": 600}, kind="group", group="cold")

    with pytest.raises(Conflict, match="layer slow"):
        await fleet.groups.remove("cold")

    await manager.remove_layer("slow")
    await fleet.groups.remove("cold")


async def test_a_group_that_another_needs_is_not_removed(fleet):
    await register(fleet, "a")
    await fleet.groups.create("site")
    await fleet.groups.create("hall", within=["site"])
    await fleet.groups.create("asks", query="group = 'hall'")
    await fleet.groups.add("hall", ["a"])

    with pytest.raises(Conflict, match="asks"):
        await fleet.groups.remove("hall")
    await fleet.groups.remove("asks")
    await fleet.groups.remove("hall")

    assert list(fleet.groups.of("a")) == []
    assert (await events(fleet, GROUP_LEFT))[-1].reason == "the group was removed"


async def test_time_alone_moves_a_device_out(fleet, clock):
    await register(fleet, "a")
    fleet.presence.last["a"] = clock.now_ms()
    await fleet.groups.create("lively", query="last_seen > now - 1 h")
    assert fleet.groups.members("lively") == ["a"]

    await clock.advance(3_700)
    await fleet.groups.tick()

    assert fleet.groups.members("lively") == []


async def test_a_reading_moves_a_device_in(manager, fleet):
    await register(fleet, "a")
    await fleet.groups.create("hot", query='latest."room/temp" > 30')

    await manager.collect_telemetry("a", "room/temp", 31.0)
    await fleet.wait_idle()

    assert fleet.groups.members("hot") == ["a"]


async def test_memberships_are_there_after_opening_again(tmp_path):
    async with IoTFleetManager(tmp_path) as manager:
        fleet = await manager.open()
        await register(fleet, "a", "b", tags=["x"])
        await fleet.groups.create("site")
        await fleet.groups.create("lab", within=["site"])
        await fleet.groups.create("dyn", query="tags has 'x'")
        await fleet.groups.add("lab", ["a"])

    async with IoTFleetManager(tmp_path) as manager:
        fleet = await manager.open()
        assert list(fleet.groups.of("a")) == ["dyn", "lab", "site"]
        await fleet.devices.change("b", tags=[])
        await fleet.wait_idle()
        assert fleet.groups.members("dyn") == ["a"]


DEVICES = ["a", "b", "c"]
QUERIES = [
    "tags has 'x'",
    "not tags has 'x' and reported.n > 1",
    "group in ('static')",
    "group in ('q0') and not group in ('static')",
    "not exists reported.n or desired.m = true",
    "latest.t > 1 and lifecycle = 'registered'",
    "location within circle(50, 10, 100 km)",
]
steps = st.one_of(
    st.tuples(st.just("tags"), st.sampled_from(DEVICES), st.sampled_from([[], ["x"], ["y", "x"]])),
    st.tuples(st.just("report"), st.sampled_from(DEVICES), st.sampled_from([{"n": 1}, {"n": 2}, {"n": None}])),
    st.tuples(st.just("desire"), st.sampled_from(DEVICES), st.sampled_from([{"m": True}, {"m": None}])),
    st.tuples(st.just("add"), st.sampled_from(DEVICES), st.none()),
    st.tuples(st.just("take out"), st.sampled_from(DEVICES), st.none()),
    st.tuples(st.just("reading"), st.sampled_from(DEVICES), st.sampled_from([0.0, 2.0])),
    st.tuples(st.just("place"), st.sampled_from(DEVICES), st.sampled_from([50.1, 60.0])),
    st.tuples(st.just("quarantine"), st.sampled_from(DEVICES), st.none()),
)


async def apply(manager, fleet, kind, device, value):
    match kind:
        case "tags":
            await fleet.devices.change(device, tags=value)
        case "report":
            await fleet.twins.report(device, value)
        case "desire":
            await fleet.twins.desire(device, value)
        case "add":
            await fleet.groups.add("static", [device])
        case "take out":
            await fleet.groups.take_out("static", [device])
        case "reading":
            await manager.collect_telemetry(device, "t", value)
        case "place":
            await fleet.location.update(device, [messages.Position(lat=value, lon=10.0)])
        case "quarantine":
            await manager.set_lifecycle(device, "quarantined")


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(steps, min_size=1, max_size=12))
async def test_incremental_membership_is_full_evaluation(todo):
    async with IoTFleetManager() as manager:
        fleet = await manager.open()
        await register(fleet, *DEVICES)
        await fleet.groups.create("static")
        for number, query in enumerate(QUERIES):
            await fleet.groups.create(f"q{number}", query=query)

        for kind, device, value in todo:
            await apply(manager, fleet, kind, device, value)
        await fleet.wait_idle()
        incremental = {device: list(fleet.groups.of(device)) for device in DEVICES}
        await fleet.groups.refresh()

        assert {device: list(fleet.groups.of(device)) for device in DEVICES} == incremental
        for number, query in enumerate(QUERIES):
            assert await fleet.search.ids(query) == fleet.groups.members(f"q{number}")
