"""Leaves below their gateways: made in their order, moved with the fleet, and left where the hub's users put them."""

import pytest
from attrs import evolve
from fleetcore_azure.testing.rules import RefusedByAzure

from fleetcore.model.mirror import EntityKey, RegistryBody
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.cloud_contract import certified, registration
from fleetcore.testing.throwaway_ca import ThrowawayCa

LEAF = RegistryBody(type="sensor", lifecycle="active", gateway="box-1")
BOX = RegistryBody(type="box", lifecycle="active", attributes={"gateway": True})
PLAIN = RegistryBody(type="sensor", lifecycle="active")


def leaf(device="a-leaf", version=None, gateway="box-1"):
    return registration(device, version, evolve(LEAF, gateway=gateway))


async def written(cloud, item):
    (result,) = await cloud.apply([item])
    assert result.state == "done", result
    return evolve(item, remote_version=result.remote_version)


async def held(cloud, item):
    (read,) = await cloud.read([item.key])
    return read


def parent(front, name):
    """What the hub says a device is below."""
    scope = front.hub.devices[name].scope
    return next((each.name for each in front.hub.devices.values() if each.edge and each.scope == scope), None)


@pytest.fixture
def clock():
    return MovableClock()


@pytest.fixture
async def cloud(opened, clock):
    async with opened(clock=clock) as cloud:
        yield cloud


async def test_leaves_of_one_batch_come_after_their_gateways_by_two_calls(cloud, front):
    items = [*(leaf(f"a-leaf-{at}") for at in range(30)), registration("box-1", body=PLAIN)]

    results = await cloud.apply(items)

    assert {each.state for each in results} == {"done"}
    assert front.calls == {"devices/bulk": 2, "twins/read": 1}
    assert {parent(front, f"a-leaf-{at}") for at in range(30)} == {"box-1"}
    assert front.hub.devices["box-1"].edge
    for item, result in zip(items, results, strict=True):
        there = await held(cloud, item)
        assert (there.body, there.remote_version) == (item.body, result.remote_version)


async def test_a_gateway_is_an_edge_from_the_first_and_one_that_gets_its_first_leaf_later_becomes_one(cloud, front):
    await written(cloud, registration("box-1", body=BOX))
    assert front.hub.devices["box-1"].edge
    plain = await written(cloud, registration("box-2", body=PLAIN))
    keys = front.hub.devices["box-2"].keys
    assert not front.hub.devices["box-2"].edge

    await written(cloud, leaf(gateway="box-2"))

    assert parent(front, "a-leaf") == "box-2"
    assert front.hub.devices["box-2"].keys == keys
    there = await held(cloud, plain)
    assert (there.body, there.remote_version) == (PLAIN, plain.remote_version), "its state is what it was"


async def test_a_leaf_moves_to_another_gateway_and_away_from_it(cloud, front):
    await cloud.apply([registration("box-1", body=BOX), registration("box-2", body=BOX)])
    item = await written(cloud, leaf())
    keys = front.hub.devices["a-leaf"].keys

    item = await written(cloud, leaf(version=item.remote_version, gateway="box-2"))
    assert parent(front, "a-leaf") == "box-2"
    assert (await held(cloud, item)).body.gateway == "box-2"
    item = await written(cloud, leaf(version=item.remote_version, gateway=None))

    assert parent(front, "a-leaf") is None
    assert front.hub.devices["a-leaf"].keys == keys
    assert (await held(cloud, item)).body.gateway is None


async def test_a_gateway_below_a_gateway_is_an_edge_below_an_edge(cloud, front):
    items = [leaf("a-leaf", gateway="box-2"), leaf("box-2", gateway="box-1"), registration("box-1", body=BOX)]

    assert {each.state for each in await cloud.apply(items)} == {"done"}

    inner, outer = front.hub.devices["box-2"], front.hub.devices["box-1"]
    assert (inner.edge, inner.parents) == (True, (outer.scope,))
    assert front.hub.devices["a-leaf"].scope == inner.scope
    item = await held(cloud, items[1])
    await written(cloud, leaf("box-2", item.remote_version, gateway=None))
    assert (inner.parents, inner.scope.startswith("ms-azure-iot-edge://box-2-")) == ((), True)


async def test_a_leaf_waits_for_its_gateway_and_is_tried_again_after_it(cloud, front):
    (waiting,) = await cloud.apply([leaf()])
    await written(cloud, registration("box-1", body=BOX))

    await written(cloud, leaf())

    assert (waiting.state, waiting.retry_after_s) == ("failed", 15)
    assert "box-1" in waiting.reason
    assert parent(front, "a-leaf") == "box-1"


async def test_a_leaf_whose_gateway_is_not_mirrored_is_made_by_itself_and_drifts_once_it_is_there(
    cloud, front, clock, caplog
):
    (waiting,) = await cloud.apply([leaf()])
    await clock.advance(601)
    item = await written(cloud, leaf())
    before = await held(cloud, item)

    await written(cloud, registration("box-1", body=BOX))
    after = await held(cloud, item)
    await written(cloud, leaf(version=after.remote_version))

    assert waiting.state == "failed"
    assert "mirror apply" in caplog.text
    assert before.body == item.body, "nothing could be done about it"
    assert after.body.gateway is None
    assert parent(front, "a-leaf") == "box-1"


async def test_another_ones_device_is_made_no_gateway(cloud, front, clock):
    front.hub.make("box-1", {})
    (waiting,) = await cloud.apply([leaf()])
    await clock.advance(601)
    await written(cloud, leaf())

    assert waiting.state == "failed"
    assert not front.hub.devices["box-1"].edge
    assert parent(front, "a-leaf") is None


async def test_a_leaf_that_users_of_the_hub_moved_differs_and_comes_back(cloud, front):
    await cloud.apply([registration("box-1", body=BOX), registration("box-2", body=BOX)])
    item = await written(cloud, leaf())
    front.hub.devices["a-leaf"].scope = front.hub.devices["box-2"].scope
    front.hub._identify(front.hub.devices["a-leaf"], {"deviceScope": front.hub.devices["box-2"].scope})
    moved = await held(cloud, item)
    front.hub._identify(front.hub.devices["a-leaf"], {"deviceScope": ""})
    nowhere = await held(cloud, item)

    (known,) = await cloud.apply([evolve(item, body=evolve(item.body, name="new"))])
    await written(cloud, leaf(version=nowhere.remote_version))

    assert (moved.body.gateway, nowhere.body.gateway, known.state) == ("box-2", None, "conflict")
    assert parent(front, "a-leaf") == "box-1"


async def test_a_place_that_users_of_the_hub_gave_to_a_device_without_a_gateway_stays(cloud, front):
    await cloud.apply([registration("box-1", body=BOX)])
    item = await written(cloud, registration("a-leaf", body=PLAIN))
    front.hub._identify(front.hub.devices["a-leaf"], {"deviceScope": front.hub.devices["box-1"].scope})

    there = await held(cloud, item)
    later = evolve(item, body=evolve(PLAIN, lifecycle="suspended"), remote_version=there.remote_version)
    await written(cloud, later)

    assert there.body == PLAIN
    assert front.hub.devices["a-leaf"].status == "disabled"
    assert parent(front, "a-leaf") == "box-1"


async def test_certificates_leave_a_leaf_where_it_is(cloud, front):
    await cloud.apply([registration("box-1", body=BOX), leaf()])

    for device in ("a-leaf", "box-1"):
        key = EntityKey("certificate", device)
        body = certified(ThrowawayCa().another(device))
        await written(cloud, cloud.fit(evolve(leaf(), key=key, body=body)).item)

    assert front.hub.devices["box-1"].edge
    assert parent(front, "a-leaf") == "box-1"


async def test_a_gateway_that_was_made_anew_has_another_scope_and_its_leaves_follow(cloud, front):
    await cloud.apply([registration("box-1", body=BOX)])
    item = await written(cloud, leaf())
    front.hub.remove("box-1")
    await written(cloud, registration("box-1", body=BOX))

    await written(cloud, evolve(item, body=evolve(item.body, name="new")))

    assert parent(front, "a-leaf") == "box-1"


def test_the_counterpart_wants_an_edge_that_is_there(front):
    front.hub.make("plain", {})
    for scope in ("ms-azure-iot-edge://nobody-1", "ms-azure-iot-edge://plain-1"):
        with pytest.raises(RefusedByAzure, match="no such edge"):
            front.hub.make("a-leaf", {"deviceScope": scope})


async def test_an_import_takes_places_over_and_edges_come_first(cloud, front):
    front.hub.largest_page = 2
    box = front.hub.make("box-1", {"capabilities": {"iotEdge": True}})
    for name in ("a-leaf", "b-leaf", "c-plain"):
        front.hub.make(name, {"deviceScope": None if name == "c-plain" else box.scope})
    found, after = [], None
    while True:
        page, after = await cloud.unowned(after)
        found += page
        if after is None:
            break

    assert [(each.name, each.held.body.gateway) for each in found] == [
        ("box-1", None),
        ("a-leaf", "box-1"),
        ("b-leaf", "box-1"),
        ("c-plain", None),
    ]
