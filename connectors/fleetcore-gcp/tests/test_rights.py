"""The printed policy is enough, and what is missing of it is named by the check or by the call that fails."""

import asyncio
import json
from contextlib import aclosing

import pytest
from attrs import evolve
from fleetcore_gcp.config import GcpConfig
from fleetcore_gcp.permissions import PERMISSIONS, needed
from fleetcore_gcp.policy import policy
from fleetcore_gcp.testing.control import Control

from fleetcore.errors import CredentialsRejected
from fleetcore.interfaces.cloud import CloudUse, MirrorItem
from fleetcore.model.mirror import EntityKey
from fleetcore.model.telemetry import TelemetryBatch
from fleetcore.testing.cloud_contract import START_MS, TwoDevices, samples
from fleetcore.testing.patience import PATIENCE_S

ALL = CloudUse(commands=True)
CREATE = {"create": True, "project_number": "123456"}
IDS = {"registry": "sensor-1", "twin": "sensor-1", "group": "lab", "job": "c1:sensor-1"}


async def everything(cloud, control):
    """Does all that a mirror does."""
    for facet, name in IDS.items():
        item = MirrorItem(key=EntityKey(facet, name), body=samples()[facet])
        (made,) = await cloud.apply([item])
        assert made.state == "done", made
        await cloud.apply([evolve(item, body=None, remote_version=made.remote_version)])
    await cloud.send(TelemetryBatch.of([0], [START_MS], [1.0]), TwoDevices())
    async with asyncio.timeout(PATIENCE_S), aclosing(cloud.inbound(None)) as arriving:
        waiting = asyncio.ensure_future(anext(arriving))
        while control.names.commands not in control.front.hub.subscriptions and not waiting.done():
            await asyncio.sleep(0.005)
        if not waiting.done():
            await control.command("sensor-1", "reboot", {})
        assert (await waiting).events
        await control.command("sensor-1", "blink", {})
        assert (await anext(arriving)).events


def control_of(front):
    return Control(front, GcpConfig(project="plant-project", emulator=front.endpoint))


@pytest.mark.parametrize("create", [False, True])
async def test_the_printed_policy_is_enough_for_everything(opened, front, create):
    control = control_of(front)
    if not create:
        control.prepare()
    async with opened(**(CREATE if create else {})) as cloud:
        cloud.use = ALL
        front.faults.grant(json.loads(cloud.policy()["json"]))
        assert {each.state for each in await cloud.check()} == {"ok"}

        await everything(cloud, control)

        assert {each.state for each in await cloud.check()} <= ({"ok", "warning"} if create else {"ok"})


#: Where all is there already, these are what is needed; the others are for making it.
USED = {
    "pubsub.topics.publish", "pubsub.topics.get", "pubsub.subscriptions.consume", "pubsub.subscriptions.get",
}  # fmt: skip


def needs(*, create):
    config = GcpConfig(project="plant-project", emulator="127.0.0.1:1", **(CREATE if create else {}))
    found = [(need.resource, each) for need in needed(ALL, config) for each in need.permissions]
    return [(create, resource, each) for resource, each in found if create == (each not in USED)]


@pytest.mark.parametrize(("create", "resource", "permission"), [*needs(create=False), *needs(create=True)])
async def test_a_right_that_is_missing_is_named(opened, front, create, resource, permission):
    control = control_of(front)
    if not create:
        control.prepare()
    async with opened(**(CREATE if create else {})) as cloud:
        cloud.use = ALL
        front.faults.grant(json.loads(cloud.policy()["json"]))
        front.faults.granted[resource].discard(permission)

        before = [each for each in await cloud.check() if each.state == "problem"]
        failed = None
        try:
            await everything(cloud, control)
        except CredentialsRejected as error:
            failed = error
        after = [each for each in await cloud.check() if each.state == "problem"]

    named = [each for each in (*before, *after) if permission in f"{each.what} {each.detail} {each.remedy}"]
    assert named or failed is not None
    assert failed is None or permission in failed.remedy
    assert all(each.remedy for each in (*before, *after))


def test_a_mirror_that_does_less_needs_less():
    use = CloudUse(sends=frozenset({"twin"}), readings=False)
    config = GcpConfig(project="plant-project", region="europe-west1", prefix="plant-")

    (need,) = needed(use, config)

    assert need.resource == "projects/plant-project/topics/plant-state"
    assert list(need.permissions) == ["pubsub.topics.publish", "pubsub.topics.get"]


def test_both_forms_say_the_same():
    config = GcpConfig(project="plant-project", region="europe-west1", **CREATE)
    made = policy(ALL, config, "cold-rooms")
    document = json.loads(made["json"])

    for role in document["roles"]:
        assert f'role_id = "{role["name"].rpartition("/")[2]}"' in made["terraform"]
        for permission in role["includedPermissions"]:
            assert f'"{permission}", # {PERMISSIONS[permission]}' in made["terraform"]
    for binding in document["bindings"]:
        if binding["resource"].count("/") == 3:
            assert f'"{binding["resource"].rpartition("/")[2]}"' in made["terraform"]
    ids = [role["name"] for role in document["roles"]]
    assert len(set(ids)) == len(ids)


async def test_a_check_tells_a_topic_that_nobody_hears_and_a_subscription_without_order(opened, front):
    control = control_of(front)
    control.prepare()
    del front.hub.subscriptions["projects/plant-project/subscriptions/heard-state"]
    front.hub.subscriptions[control.names.commands].record.enable_message_ordering = False
    async with opened() as cloud:
        found = {each.what.rpartition("/")[2]: each for each in await cloud.check() if each.state != "ok"}

    assert found["fleetcore-state"].state == "warning"
    assert "they are lost" in found["fleetcore-state"].detail
    assert found["fleetcore-commands"].state == "problem"
    assert "--enable-message-ordering" in found["fleetcore-commands"].remedy


async def test_a_check_tells_a_topic_that_may_leave_the_region(opened, front):
    control = control_of(front)
    control.prepare()
    front.hub.topics[control.names.topic("state")].record.message_storage_policy.allowed_persistence_regions.extend(
        ["europe-west1", "us-east1"]
    )
    async with opened(region="europe-west1") as cloud:
        found = [each for each in await cloud.check() if each.state == "warning"]

    assert [each.what for each in found] == [control.names.topic("state")]
