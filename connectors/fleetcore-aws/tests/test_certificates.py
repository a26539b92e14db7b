"""Certificates at AWS: what opens it, what does not any more, whatever fails in between, and whose they are."""

import itertools
from collections import Counter

import pytest
from attrs import evolve
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from fleetcore_aws.brought import SHADOW
from fleetcore_aws.testing.control import Control
from fleetcore_aws.testing.operations import arn
from fleetcore_aws.testing.rules import RefusedByAws

from fleetcore.errors import ConfigError, FleetError
from fleetcore.interfaces.cloud import CloudUse, MirrorItem
from fleetcore.model.mirror import CertificateBody, EntityKey
from fleetcore.testing.cloud_contract import certified, registration
from fleetcore.testing.http1 import Answer
from fleetcore.testing.throwaway_ca import ThrowawayCa

KEY = EntityKey("certificate", "sensor-1")
REGISTRY = EntityKey("registry", "sensor-1")
CA = ThrowawayCa()
A, B = CA.another("sensor-1"), CA.another("sensor-1")
KEPT, DELETED = CloudUse(deletes=False), CloudUse(deletes=True)


def ids(*made):
    return {one.fingerprint for one in certified(*made).certificates}


def opens(front):
    """The certificates that open AWS, and for which things."""
    return {name: each.things for name, each in front.back.hub.certificates.items() if each.status == "ACTIVE"}


def there(*made):
    return {name: {"sensor-1"} for name in ids(*made)}


def noted(front):
    shadow = front.back.hub.shadows.get("sensor-1", {}).get(SHADOW)
    return None if shadow is None or shadow.state is None else set(shadow.state["reported"]["ids"])


async def brought(cloud, body, key=KEY, known=None):
    """Until it is done, as the engine does it: reads after a conflict, and tries again after a failure."""
    item = MirrorItem(key=key, body=body, remote_version=known)
    for _ in range(6):
        try:
            (result,) = await cloud.apply([item])
        except FleetError:
            continue
        if result.state == "done":
            return result
        if result.state == "conflict":
            (held,) = await cloud.read([key])
            item = evolve(item, remote_version=None if held is None else held.remote_version)
        elif result.state != "failed":
            return result
    raise AssertionError(f"it does not come to an end: {result}")


async def held(cloud):
    (item,) = await cloud.read([KEY])
    return None if item is None else item.body


@pytest.fixture
async def thing(cloud):
    (result,) = await cloud.apply([registration("sensor-1")])
    assert result.state == "done"
    return result


async def test_a_certificate_comes_is_joined_by_the_next_and_goes(cloud, front, thing):
    cloud.use = KEPT
    first = await brought(cloud, certified(A))
    assert (opens(front), await held(cloud)) == (there(A), certified(A))

    both = await brought(cloud, certified(A, B), known=first.remote_version)
    assert (opens(front), await held(cloud)) == (there(A, B), certified(A, B))

    one = await brought(cloud, certified(B), known=both.remote_version)
    assert (opens(front), noted(front)) == (there(B), ids(B))
    old = front.back.hub.certificates[ids(A).pop()]
    assert (old.status, old.things) == ("INACTIVE", set()), "without delete it stays, and opens nothing"

    await brought(cloud, None, known=one.remote_version)
    assert (opens(front), noted(front), await held(cloud)) == ({}, None, None)
    assert set(front.back.hub.certificates) == ids(A, B)


async def test_what_certificates_cost_in_calls_is_as_the_readme_says(cloud, front, thing):
    cloud.use, known, costs = KEPT, None, []
    for body in (certified(A), certified(A, B), certified(B), None):
        before = Counter(front.calls).total()
        known = (await brought(cloud, body, known=known)).remote_version
        costs.append(Counter(front.calls).total() - before)

    assert costs == [5, 7, 9, 8]


async def test_where_the_mirror_removes_what_is_gone_is_deleted_with_its_policy(opened, front):
    async with opened(certificate_policy="devices") as cloud:
        cloud.use = DELETED
        front.back.hub.policies.add("devices")
        await cloud.apply([registration("sensor-1")])
        first = await brought(cloud, certified(A, B))
        assert {each.policies.copy().pop() for each in front.back.hub.certificates.values()} == {"devices"}

        await brought(cloud, certified(B), known=first.remote_version)
        assert set(front.back.hub.certificates) == ids(B)


async def test_a_policy_that_is_not_there_is_named_and_what_was_revoked_is_ended_all_the_same(opened, front):
    async with opened() as cloud:
        await cloud.apply([registration("sensor-1")])
        await brought(cloud, certified(A))
    async with opened(certificate_policy="devices") as cloud:
        result = await brought(cloud, certified(B))

    assert result.state == "invalid"
    assert "devices" in result.reason
    assert opens(front) == {ids(B).pop(): set()}


CHANGES = {
    "come": ((), (A,)),
    "follow": ((A,), (B,)),
    "go beside": ((A, B), (B,)),
    "all go": ((A, B), None),
}


def failing(front, at, mode):
    """The call of that number fails: AWS errs, or does it and its answer is lost."""
    back, number = front.back, itertools.count()

    async def answer(call):
        if next(number) != at:
            return await back(call)
        if mode == "not done":
            raise RefusedByAws("InternalFailureException", "An unexpected error has occurred", 500)
        await back(call)
        return Answer(fate="none")

    front.back = answer
    return back


@pytest.mark.parametrize("use", [KEPT, DELETED], ids=["kept", "deleted"])
@pytest.mark.parametrize("mode", ["not done", "answer lost"])
@pytest.mark.parametrize("change", CHANGES)
async def test_it_comes_to_the_same_whichever_call_fails(opened, front, change, mode, use):
    before, after = CHANGES[change]
    async with opened(certificate_policy="devices") as cloud:
        cloud.use = use
        hub = front.back.hub
        hub.policies.add("devices")
        await cloud.apply([registration("sensor-1")])
        for at in range(20):
            known = await brought(cloud, certified(*before)) if before else None
            calls = Counter(front.calls).total()
            back = failing(front, at, mode)
            body = None if after is None else certified(*after)
            await brought(cloud, body, known=None if known is None else known.remote_version)
            front.back = back

            assert opens(front) == there(*(after or ())), at
            assert noted(front) == (None if after is None else ids(*after)), at
            assert await held(cloud) == body, at
            if use.deletes:
                assert set(hub.certificates) == ids(*(after or ())), at
            if Counter(front.calls).total() - calls < at:
                return
            await brought(cloud, None)
            hub.certificates.clear()
    raise AssertionError("it never ended")


async def test_what_is_noted_comes_before_what_is_registered(cloud, front, thing):
    """What a mirror leaves that is killed after any call is named in the shadow."""
    back, seen = front.back, []

    async def answer(call):
        answered = await back(call)
        seen.append(set(back.hub.certificates) <= (noted_of(back) or set()))
        return answered

    def noted_of(back):
        shadow = back.hub.shadows.get("sensor-1", {}).get(SHADOW)
        return None if shadow is None else set(shadow.state["reported"]["ids"])

    front.back = answer
    first = await brought(cloud, certified(A))
    cloud.use = DELETED
    await brought(cloud, certified(B), known=first.remote_version)

    assert all(seen)


async def test_a_detachment_that_takes_its_time_is_waited_for(cloud, front, thing):
    first = await brought(cloud, certified(A))
    front.back.hub.detaching = 2

    (result,) = await cloud.apply([MirrorItem(key=KEY, body=None, remote_version=first.remote_version)])
    assert (result.state, noted(front)) == ("failed", ids(A)), "it is still noted"
    assert "detaching" in result.reason
    await brought(cloud, None)

    assert opens(front) == {}


async def test_one_that_is_registered_already_is_made_active_and_attached(cloud, front, hub, thing):
    await hub.call("iot", "register_certificate_without_ca", certificatePem=A.pem.decode(), status="INACTIVE")

    await brought(cloud, certified(A))

    assert opens(front) == there(A)


@pytest.mark.parametrize("how", ["inactive", "detached", "deleted"])
async def test_what_aws_users_ended_is_seen_and_mended(cloud, front, hub, thing, how):
    await brought(cloud, certified(A, B))
    (one,) = ids(A)
    if how == "inactive":
        await hub.call("iot", "update_certificate", certificateId=one, newStatus="INACTIVE")
    else:
        await hub.call("iot", "detach_thing_principal", thingName="sensor-1", principal=arn("cert", one))
    if how == "deleted":
        await hub.call("iot", "update_certificate", certificateId=one, newStatus="INACTIVE")
        await hub.call("iot", "delete_certificate", certificateId=one)
    assert await held(cloud) == certified(B)

    await brought(cloud, certified(A, B))

    assert opens(front) == there(A, B)


async def test_a_principal_that_aws_users_attached_stays_as_it_is(cloud, front, hub, thing):
    theirs = ThrowawayCa().another("theirs")
    await hub.call("iot", "register_certificate_without_ca", certificatePem=theirs.pem.decode(), status="ACTIVE")
    (one,) = ids(theirs)
    await hub.call("iot", "attach_thing_principal", thingName="sensor-1", principal=arn("cert", one))
    cloud.use = DELETED

    await brought(cloud, certified(A))
    assert await held(cloud) == certified(A)
    await brought(cloud, certified(B))
    await brought(cloud, None)
    (removed,) = await cloud.apply([MirrorItem(key=REGISTRY, body=None, remote_version=thing.remote_version)])

    assert opens(front) == {one: {"sensor-1"}}
    assert removed.state == "invalid"
    assert "attached" in removed.reason


async def test_one_that_aws_users_gave_a_policy_stays_inactive(cloud, front, hub, thing):
    await brought(cloud, certified(A))
    (one,) = ids(A)
    await hub.call("iot", "create_policy", policyName="theirs", policyDocument="{}")
    await hub.call("iot", "attach_policy", policyName="theirs", target=arn("cert", one))
    cloud.use = DELETED

    await brought(cloud, None)

    assert front.back.hub.certificates[one].status == "INACTIVE"
    assert (opens(front), noted(front)) == ({}, None)


async def test_a_thing_or_a_note_of_another_one_is_left_alone(opened, cloud, front, hub):
    await hub.make_foreign(REGISTRY)
    assert (await brought(cloud, certified(A))).state == "foreign"
    assert (await brought(cloud, None)).state == "foreign"
    assert await held(cloud) is None

    await hub.call("iot", "delete_thing", thingName="sensor-1")
    async with opened(fleet="other") as other:
        await other.apply([registration("sensor-1")])
        await brought(other, certified(B))
        (refused,) = await cloud.apply([MirrorItem(key=KEY, body=None)])
        assert [key async for key in cloud.entities("certificate")] == []
        assert [key async for key in other.entities("certificate")] == [KEY]

    assert refused.state == "foreign"
    assert opens(front) == there(B)


async def test_a_note_of_another_one_on_our_thing_is_left_alone(cloud, front, hub, thing):
    payload = b'{"state": {"reported": {"ids": ["theirs"]}}}'
    await hub.call("iot-data", "update_thing_shadow", thingName="sensor-1", shadowName=SHADOW, payload=payload)

    assert (await brought(cloud, certified(A))).state == "foreign"
    assert (await brought(cloud, None)).state == "foreign"
    assert await held(cloud) is None
    assert [key async for key in cloud.entities("certificate")] == []
    assert (noted(front), front.back.hub.certificates) == ({"theirs"}, {})


async def test_a_certificate_waits_for_its_thing(cloud, front):
    (result,) = await cloud.apply([MirrorItem(key=KEY, body=certified(A))])
    assert (result.state, front.back.hub.certificates) == ("failed", {})

    results = await cloud.apply([MirrorItem(key=KEY, body=certified(A)), registration("sensor-1")])
    assert [each.state for each in results] == ["done", "done"]


async def test_a_device_goes_with_its_certificates_in_whatever_order_they_are_asked(cloud, front, thing):
    cloud.use = DELETED
    known = await brought(cloud, certified(A))
    device = MirrorItem(key=REGISTRY, body=None, remote_version=thing.remote_version)

    (early,) = await cloud.apply([device])
    assert early.state == "failed", "a thing whose certificates are open stays"
    results = await cloud.apply([device, MirrorItem(key=KEY, body=None, remote_version=known.remote_version)])

    assert [each.state for each in results] == ["done", "done"]
    assert (front.back.hub.things, front.back.hub.certificates) == ({}, {})


async def test_what_was_brought_to_a_thing_that_was_removed_by_hand_is_ended(cloud, front, hub, thing):
    await brought(cloud, certified(A))
    await hub.call("iot", "detach_thing_principal", thingName="sensor-1", principal=arn("cert", ids(A).pop()))
    await hub.call("iot", "delete_thing", thingName="sensor-1")

    await brought(cloud, None)

    assert (opens(front), noted(front)) == ({}, None)


def test_keys_that_aws_does_not_take_are_a_loss_with_a_remedy(cloud):
    keys = [
        ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate(), rsa.generate_private_key(65537, 1024),
    ]  # fmt: skip
    made = [CA.another("sensor-1", key) for key in keys]

    fitted = cloud.fit(MirrorItem(key=KEY, body=certified(*made)))

    assert fitted.item.body == certified(*made[:2])
    assert len(fitted.lost) == 2
    assert all("renew" in loss.reason for loss in fitted.lost)


async def test_a_device_whose_new_key_aws_does_not_take_gets_in_with_the_old_one_no_more(cloud, front, thing):
    await brought(cloud, certified(A))
    foreign = certified(CA.another("sensor-1", ed25519.Ed25519PrivateKey.generate()))

    fitted = cloud.fit(MirrorItem(key=KEY, body=foreign))
    await brought(cloud, fitted.item.body)

    assert fitted.lost
    assert opens(front) == {}
    assert await held(cloud) == CertificateBody()


async def test_the_counterparts_refuse_what_aws_refuses(hub, front, moto_front):
    at_moto = Control(moto_front)
    unsupported = CA.another("sensor-1", ed25519.Ed25519PrivateKey.generate())
    try:
        for control in (hub, at_moto):
            failed = control.client("iot").exceptions.ClientError

            async def refused(method, failed=failed, control=control, **arguments):
                with pytest.raises(failed) as error:
                    await control.call("iot", method, **arguments)
                return error.value.response["Error"]["Code"]

            register = {"certificatePem": A.pem.decode(), "status": "ACTIVE"}
            made = await control.call("iot", "register_certificate_without_ca", **register)
            one, target = made["certificateId"], made["certificateArn"]
            assert {one} == ids(A)
            assert await refused("register_certificate_without_ca", **register) == "ResourceAlreadyExistsException"
            bad = {"certificatePem": unsupported.pem.decode()}
            assert await refused("register_certificate_without_ca", **bad) == "CertificateValidationException"
            assert await refused("delete_certificate", certificateId=one) == "CertificateStateException"
            await control.call("iot", "create_thing", thingName="t")
            await control.call("iot", "attach_thing_principal", thingName="t", principal=target)
            await control.call("iot", "update_certificate", certificateId=one, newStatus="INACTIVE")
            assert await refused("delete_certificate", certificateId=one) == "DeleteConflictException"
            assert await refused("delete_thing", thingName="t") == "InvalidRequestException"
            assert await refused("attach_policy", policyName="p", target=target) == "ResourceNotFoundException"
            await control.call("iot", "detach_thing_principal", thingName="t", principal=target)
            await control.call("iot", "create_policy", policyName="p", policyDocument="{}")
            await control.call("iot", "attach_policy", policyName="p", target=target)
            assert await refused("delete_certificate", certificateId=one) == "DeleteConflictException"
            await control.call("iot", "detach_policy", policyName="p", target=target)
            await control.call("iot", "delete_certificate", certificateId=one)
    finally:
        at_moto.close()


async def test_a_policys_name_is_looked_at(opened):
    for name in ("", "a b", "x" * 129):
        with pytest.raises(ConfigError):
            async with opened(certificate_policy=name):
                pass


async def test_at_moto_a_certificate_comes_and_is_deleted_too(opened, moto_front):
    control = Control(moto_front)
    principals = []
    try:
        await control.call("iot", "create_policy", policyName="devices", policyDocument="{}")
        async with opened(at=moto_front, certificate_policy="devices") as cloud:
            cloud.use, known = DELETED, None
            await cloud.apply([registration("sensor-1")])
            for body in (certified(A, B), certified(B), None):
                known = (await brought(cloud, body, known=known)).remote_version
                listed = await control.call("iot", "list_thing_principals", thingName="sensor-1")
                principals.append({each.rpartition("/")[2] for each in listed["principals"]})
        for one in ids(A, B):
            with pytest.raises(control.client("iot").exceptions.ResourceNotFoundException):
                await control.call("iot", "describe_certificate", certificateId=one)
    finally:
        control.close()

    assert principals == [ids(A, B), ids(B), set()]
