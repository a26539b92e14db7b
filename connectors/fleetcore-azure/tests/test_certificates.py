"""Certificates as thumbprints: what opens the hub, what does not any more, and what is kept beside."""

from contextlib import suppress

import pytest
from attrs import evolve
from cryptography.hazmat.primitives.asymmetric import ed25519

from fleetcore.errors import Unavailable
from fleetcore.interfaces.cloud import CloudUse, MirrorItem
from fleetcore.model.mirror import CertificateBody, EntityKey
from fleetcore.testing.cloud_contract import certified, registration, twin
from fleetcore.testing.throwaway_ca import ThrowawayCa

KEY = EntityKey("certificate", "sensor-1")
CA = ThrowawayCa()
A, B, C = (CA.another("sensor-1") for _ in range(3))


def ids(*made):
    return {one.fingerprint for one in certified(*made).certificates}


def opens(front):
    device = front.hub.devices["sensor-1"]
    return {each for each in device.thumbprints if each} if device.authentication == "selfSigned" else None


async def brought(cloud, body, known=None):
    item = MirrorItem(key=KEY, body=body, remote_version=known)
    (result,) = await cloud.apply([cloud.fit(item).item])
    return result


@pytest.fixture(autouse=True)
async def device(cloud):
    await cloud.apply([registration("sensor-1")])


async def test_a_certificate_comes_is_joined_by_the_next_and_goes_also_without_delete(cloud, front):
    cloud.use = CloudUse(deletes=False)
    first = await brought(cloud, certified(A))
    assert opens(front) == ids(A)
    both = await brought(cloud, certified(A, B), first.remote_version)
    assert opens(front) == ids(A, B)
    one = await brought(cloud, certified(B), both.remote_version)
    assert opens(front) == ids(B)

    gone = await brought(cloud, None, one.remote_version)

    assert {each.state for each in (first, both, one, gone)} == {"done"}
    assert opens(front) is None
    assert front.hub.devices["sensor-1"].keys[0], "the hub makes keys, which nobody has"


async def test_an_empty_body_ends_what_was_there_and_is_read_back(cloud, front):
    first = await brought(cloud, certified(A))

    empty = await brought(cloud, CertificateBody(), first.remote_version)
    (there,) = await cloud.read([KEY])

    assert (empty.state, opens(front), there.body, there.remote_version) == ("done", None, CertificateBody(), None)
    assert [key async for key in cloud.entities("certificate")] == []


async def test_of_three_certificates_the_two_newest_are_held_and_one_is_a_loss(cloud, front):
    made = certified(A, B, C)

    fitted = cloud.fit(MirrorItem(key=KEY, body=made))
    await cloud.apply([fitted.item])

    assert len(fitted.lost) == 1
    assert len(opens(front)) == 2
    assert cloud.fit(fitted.item).item == fitted.item


async def test_any_key_will_do(cloud, front):
    odd = CA.another("sensor-1", ed25519.Ed25519PrivateKey.generate())

    assert (await brought(cloud, certified(odd))).state == "done"
    assert opens(front) == ids(odd)


async def test_status_tags_and_twin_stay_as_they_are(cloud, front):
    suspended = evolve(registration("x").body, lifecycle="suspended")
    (known,) = await cloud.read([EntityKey("registry", "sensor-1")])
    await cloud.apply([registration("sensor-1", known.remote_version, suspended), twin("sensor-1", interval=1)])

    there = front.hub.devices["sensor-1"]
    there.edge, there.scope = True, "ms-azure-iot-edge://sensor-1-1"
    front.hub._touched(there)
    await brought(cloud, certified(A))

    assert (there.status, there.desired) == ("disabled", {"interval": 1})
    assert (there.edge, there.scope) == (True, "ms-azure-iot-edge://sensor-1-1"), "which users of the hub have set"
    active = registration("sensor-1", (await cloud.read([EntityKey("registry", "sensor-1")]))[0].remote_version)
    await cloud.apply([active])
    assert (there.status, opens(front)) == ("enabled", ids(A))


async def test_another_writer_is_a_conflict_and_another_ones_device_is_left_alone(cloud, front):
    first = await brought(cloud, certified(A))
    front.hub.devices["sensor-1"].thumbprints = ("a" * 40, None)

    assert (await brought(cloud, certified(B), first.remote_version)).state == "conflict"
    front.hub.remove("sensor-1")
    assert (await brought(cloud, certified(B))).state == "failed"
    assert (await brought(cloud, None)).state == "done"
    front.hub.make("sensor-1", {})
    assert (await brought(cloud, certified(B))).state == "foreign"


@pytest.mark.parametrize("fault", ["errors", "lost", "halved", "cut_bodies"])
async def test_whatever_fails_at_the_write_the_next_one_brings_it_in_step(cloud, front, fault):
    first = await brought(cloud, certified(A))
    front.faults.only = ("devices/write",)
    setattr(front.faults, fault, 1)
    with suppress(Unavailable):
        await brought(cloud, certified(B), first.remote_version)
    (there,) = await cloud.read([KEY])

    assert (await brought(cloud, certified(B), there.remote_version)).state == "done"
    assert opens(front) == ids(B)
