"""Twins in depth: layers with their origins, history, what it was then, convergence, compare-and-set."""

import asyncio

import hypothesis.strategies as st
import pytest
from attrs import evolve
from hypothesis import HealthCheck, given, settings

from fleetcore import IoTFleetManager
from fleetcore.errors import NotFound, Refused, VersionConflict
from fleetcore.fleet.twins import HISTORY
from fleetcore.model.layer import LayerKind
from fleetcore.model.message import Accepted
from fleetcore.model.store import Commit, Put
from fleetcore.model.twin import leaves, merge_patch, unconverged
from fleetcore.wire import messages
from fleetcore.wire.records import to_plain


async def desired(fleet, device):
    return dict((await fleet.twins.get(device)).desired.document)


@pytest.fixture
async def device(fleet):
    await fleet.devices.register("a", "sensor")
    return "a"


async def test_later_layers_override_and_each_leaf_tells_where_it_comes_from(fleet, device, clock):
    layers = fleet.twins.layers
    await fleet.groups.create("site")
    await fleet.groups.create("hall", within=["site"])
    await fleet.groups.add("hall", [device])
    await layers.desire("defaults", {"interval": 300, "led": True, "net": {"apn": "x", "retry": 3}}, actor="ann")
    await layers.desire("site", {"interval": 200, "net": {"retry": 5}}, kind=LayerKind.GROUP, group="site")
    await layers.desire("hall", {"interval": 100}, kind=LayerKind.GROUP, group="hall")
    await layers.desire("saver", {"interval": 900}, kind=LayerKind.POLICY, group="site")
    await fleet.twins.desire(device, {"led": False}, actor="bob")
    await fleet.wait_idle()

    assert await desired(fleet, device) == {"interval": 900, "led": False, "net": {"apn": "x", "retry": 5}}
    origins = layers.origins(await fleet.twins.get(device))
    assert {at: (one.layer, one.by) for at, one in origins.items()} == {
        "/interval": ("saver", "system"),
        "/led": ("device", "bob"),
        "/net/apn": ("defaults", "ann"),
        "/net/retry": ("site", "system"),
    }

    await layers.remove("saver")
    await fleet.twins.desire(device, {"led": None})
    await fleet.wait_idle()
    assert await desired(fleet, device) == {"interval": 100, "led": True, "net": {"apn": "x", "retry": 5}}

    await fleet.groups.take_out("hall", [device])
    await fleet.wait_idle()
    assert await desired(fleet, device) == {"interval": 300, "led": True, "net": {"apn": "x", "retry": 3}}


async def test_a_device_that_is_registered_later_has_the_layers_and_versions_only_rise(fleet):
    await fleet.twins.layers.desire("defaults", {"interval": 300})
    await fleet.devices.register("late", "sensor")
    await fleet.wait_idle()
    first = await fleet.twins.get("late")
    await fleet.twins.recompute("late")
    await fleet.twins.desire("late", {"interval": 300})
    await fleet.wait_idle()

    again = await fleet.twins.get("late")
    assert (first.desired.document, first.desired.version) == ({"interval": 300}, 1)
    assert again.desired.version == 1


async def test_a_group_that_is_laid_elsewhere_takes_its_devices_to_other_layers(fleet, device):
    await fleet.groups.create("site")
    await fleet.groups.create("hall", within=["site"])
    await fleet.groups.add("hall", [device])
    await fleet.twins.layers.desire("of-site", {"led": True}, kind=LayerKind.GROUP, group="site")
    await fleet.wait_idle()
    inside = (await fleet.twins.get(device)).desired.document

    await fleet.groups.change("hall", within=[])
    await fleet.wait_idle()
    outside = (await fleet.twins.get(device)).desired.document
    await fleet.groups.change("hall", within=["site"])
    await fleet.wait_idle()

    assert (inside, outside) == ({"led": True}, {})
    assert (await fleet.twins.get(device)).desired.document == {"led": True}


async def test_devices_are_told_of_a_layer_as_of_any_desired_change(fleet, device):
    told = []
    fleet.twins.on_desired(lambda who, body: told.append((who, body["since"], body["version"], body["patch"])))
    await fleet.twins.desire(device, {"a": 1})
    await fleet.twins.layers.desire("defaults", {"a": 0, "b": 2})
    await fleet.wait_idle()

    assert told == [(device, 0, 1, {"a": 1}), (device, 1, 2, {"b": 2})]


async def test_what_makes_no_layer_is_refused(fleet, device):
    layers = fleet.twins.layers
    with pytest.raises(Refused, match="group"):
        await layers.desire("x", {}, kind=LayerKind.GROUP)
    with pytest.raises(Refused, match="group"):
        await layers.desire("x", {}, group="site")
    await layers.desire("x", {"a": 1})
    with pytest.raises(VersionConflict):
        await layers.desire("x", {"a": 2}, if_version=9)
    with pytest.raises(Refused, match="fleet layer"):
        await layers.desire("x", {}, kind=LayerKind.POLICY)
    with pytest.raises(Refused, match="not allowed"):
        await layers.desire("x", {"$y": 1})
    with pytest.raises(NotFound):
        await layers.remove("nothing")


async def test_layers_that_are_too_much_together_leave_the_device_as_it_was_and_say_so(fleet, device):
    await fleet.twins.desire(device, {"own": "x" * 40_000})
    await fleet.twins.layers.desire("defaults", {"more": "y" * 40_000})
    await fleet.wait_idle()

    assert await desired(fleet, device) == {"own": "x" * 40_000}
    assert [row.action for row in await fleet.audit.list(object=device)][-1] == "twin.refused"


async def test_what_a_section_was_at_a_time_and_who_changed_it(fleet, device, clock):
    times = []
    for value in (1, 2, 3):
        await fleet.twins.desire(device, {"n": value, f"k{value}": True}, actor=f"user-{value}", reason=f"r{value}")
        times.append(clock.now_ms())
        await clock.advance(60)

    assert [await fleet.twins.as_of(device, at) for at in times] == [
        {"n": 1, "k1": True},
        {"n": 2, "k1": True, "k2": True},
        {"n": 3, "k1": True, "k2": True, "k3": True},
    ]
    assert await fleet.twins.as_of(device, times[0] - 1) == {}
    assert [(one.by, one.reason) for one in await fleet.twins.history(device)] == [
        ("user-3", "r3"), ("user-2", "r2"), ("user-1", "r1"),
    ]  # fmt: skip


async def test_history_is_bounded_and_says_where_it_ends(fleet, device, clock):
    began = clock.now_ms()
    for value in range(HISTORY + 5):
        await fleet.twins.report(device, {"n": value})
        await clock.advance(1)

    assert len(await fleet.twins.history(device, "reported")) == HISTORY
    assert await fleet.twins.as_of(device, began + 10_500, "reported") == {"n": 10}
    with pytest.raises(NotFound, match="no longer stored"):
        await fleet.twins.as_of(device, began, "reported")


async def test_how_long_a_leaf_has_not_converged(fleet, device, clock):
    await fleet.twins.desire(device, {"a": 1, "b": {"c": 2, "d": 3}})
    began = clock.now_ms()
    await clock.advance(60)
    await fleet.twins.report(device, {"a": 1, "b": {"d": 4}})
    reported = clock.now_ms()

    assert unconverged(await fleet.twins.get(device)) == {"/b/c": began, "/b/d": reported}


async def test_of_a_hundred_that_compare_and_set_one_wins_each_version(fleet, device):
    await fleet.twins.desire(device, {"n": 0})

    lost = []

    async def one(number):
        try:
            return (await fleet.twins.desire(device, {"n": number}, if_version=1)).desired.version
        except VersionConflict as error:
            lost.append(error.ids["version"])
            return None

    won = [version for version in await asyncio.gather(*(one(n) for n in range(1, 101))) if version is not None]

    assert won == [2]
    assert lost == [2] * 99
    assert (await fleet.twins.get(device)).desired.version == 2


json = st.recursive(
    st.one_of(
        st.integers(-5, 5), st.booleans(), st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=3)
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.sampled_from("abc"), inner, max_size=3)),
    max_leaves=5,
)
patches = st.dictionaries(st.sampled_from("abcd"), st.one_of(json, st.none()), max_size=3)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(st.tuples(st.sampled_from(["own", "low", "high"]), patches), max_size=8))
async def test_what_devices_were_told_adds_up_to_what_is_desired(changes):
    """A device that applies each notification in turn has the desired document, whatever layer it came from."""
    async with IoTFleetManager() as manager:
        fleet = await manager.open()
        await fleet.devices.register("a", "sensor")
        mine, version = {}, 0

        def told(_device, body):
            nonlocal mine, version
            assert body["since"] == version
            mine, version = merge_patch(mine, body["patch"]), body["version"]

        fleet.twins.on_desired(told)
        for layer, patch in changes:
            if layer == "own":
                await fleet.twins.desire("a", patch)
            else:
                kind = LayerKind.FLEET if layer == "low" else LayerKind.POLICY
                await fleet.twins.layers.desire(layer, patch, kind=kind)
            await fleet.wait_idle()

        assert mine == await desired(fleet, "a")
        origins = fleet.twins.layers.origins(await fleet.twins.get("a"))
        assert {at: one.value for at, one in origins.items()} == leaves(mine)


async def test_an_acknowledgement_of_what_was_never_desired_is_refused_and_later_honest_ones_count(manager):
    fleet = await manager.open()
    await fleet.devices.register("a", "sensor")
    await fleet.twins.desire("a", {"interval": 1})
    # As a store of an earlier release may hold it.
    twin = await fleet.twins.get("a")
    await fleet.storage.commit(Commit(puts=(Put(kind="twin", key="a", body=to_plain(evolve(twin, acknowledged=99))),)))

    early = await fleet.twins.acknowledge("a", messages.TwinAck(version=2))
    honest = await fleet.twins.acknowledge(
        "a", messages.TwinAck(version=1, refused={"/interval": {"code": "out_of_range"}})
    )

    assert (early.code, early.pointer, early.limit) == ("schema_invalid", "/version", 1)
    assert isinstance(honest, Accepted)
    twin = await fleet.twins.get("a")
    assert (twin.acknowledged, twin.refused) == (1, {"/interval": {"code": "out_of_range"}})


async def test_a_hundred_merges_of_one_twin_at_once_all_hold(fleet, monkeypatch):
    await fleet.devices.register("d", "sensor")
    reads, conflicts = [], []
    get, commit = fleet.storage.get, fleet.storage.commit

    async def reading(kind, key):
        reads.append(kind)
        return await get(kind, key)

    async def committing(change):
        try:
            return await commit(change)
        except VersionConflict:
            conflicts.append(change)
            raise

    monkeypatch.setattr(fleet.storage, "get", reading)
    monkeypatch.setattr(fleet.storage, "commit", committing)
    merges = [fleet.twins.desire("d", {f"m{n}": n}) for n in range(50)]
    reports = [fleet.twins.report("d", {f"m{n}": n}) for n in range(50)]
    await asyncio.gather(*merges, *reports)

    twin = await fleet.twins.get("d")
    wanted = {f"m{n}": n for n in range(50)}
    assert (twin.desired.document, twin.reported.document) == (wanted, wanted)
    assert (twin.desired.version, twin.reported.version, twin.version) == (50, 50, 100)
    assert [len(await fleet.twins.history("d", section)) for section in ("desired", "reported")] == [50, 50]
    assert conflicts == []
    # Each begins where the one before ended: the first alone reads the twin.
    assert reads.count("twin") == 1 + 1 + 2


async def test_true_is_not_one_and_one_is_a_float_of_the_same_value(manager, fleet):
    await manager.register_device("eq", "sensor")
    await manager.set_desired("eq", {"a": 1, "b": 1.0, "c": [1, {"d": 0}]})
    await fleet.twins.report("eq", {"a": True, "b": 1, "c": [1, {"d": False}]})

    assert (await manager.get_twin("eq")).delta == {"a": 1, "c": [1, {"d": 0}]}

    twin = await manager.set_desired("eq", {"a": True, "c": [1, {"d": False}]})

    assert twin.desired_version == 2
    assert twin.desired["a"] is True
    assert (await manager.get_twin("eq")).delta == {}


async def test_a_report_for_another_version_than_the_section_has_is_refused(fleet, device):
    first = await fleet.twins.report(device, {"mode": "eco"}, if_version=0)
    refused = await fleet.twins.report(device, {"mode": "fast"}, if_version=0)

    assert refused.code == "version_conflict"
    assert (await fleet.twins.get(device)).reported.document == {"mode": "eco"}
    assert (await fleet.twins.report(device, {"mode": "fast"}, if_version=first.version)).version == first.version + 1
