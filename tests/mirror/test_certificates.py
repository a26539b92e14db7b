"""Certificates as a facet: what lets a device in is at the hub, and what lets it in no more is not, whatever happens."""

import hashlib
import json

import pytest

from fleetcore import IoTFleetManager
from fleetcore.fleet.security.manager import OVERLAP
from fleetcore.interfaces.cloud import CloudLimits
from fleetcore.model.mirror import EntityKey
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.memory_cloud import MemoryCloud, MemoryHub
from fleetcore.wire.identity import make_csr, make_key
from fleetcore.wire.tls import der_of

from .conftest import caught_up, registry, until
from .test_bounds import drift, plan
from .test_kills import WHERE, Death, run

KEY = EntityKey("certificate", "dev-1")
SECTION = '[clouds.memory]\nmirror = ["registry", "certificates"]'


async def issued(manager, device="dev-1"):
    """Another certificate of a device, from the operator."""
    _, key = make_key()
    return await (await manager.open()).security.issue(make_csr(device, key))


async def renewed(manager, old):
    """One that follows another, which goes on for the overlap, or until the new one connects."""
    _, key = make_key()
    security = (await manager.open()).security
    await security.renew(old.device, make_csr(old.device, key), current=old.id)
    (new,) = [one for one in await security.inventory(old.device) if one.replaces]
    return new


def fingerprint(record):
    return hashlib.sha256(der_of(record.pem.encode())).hexdigest()


def held(hub, key=KEY):
    body = hub.body(key)
    return None if body is None else [each["fingerprint"] for each in body["certificates"]]


async def test_what_lets_a_device_in_is_at_the_hub_and_nothing_secret_is(served, hub):
    async with served(SECTION) as manager:
        await manager.register_device("dev-1", "sensor")
        await manager.register_device("dev-2", "sensor")
        record = await issued(manager)
        await manager.issue_device_token("dev-2")
        await caught_up(manager)

        assert hub.body(KEY) == {"certificates": [{"fingerprint": fingerprint(record), "pem": record.pem}]}
        assert set(hub.held) == {registry("dev-1"), registry("dev-2"), KEY}
        text = json.dumps([each.body for each in hub.held.values()])
        assert "PRIVATE" not in text
        assert "fc_" not in text
        assert await drift(manager) == []


async def test_certificates_are_sent_only_where_the_section_names_them(served, hub):
    async with served() as manager:
        await manager.register_device("dev-1", "sensor")
        await issued(manager)
        await caught_up(manager)

    assert set(hub.held) == {registry("dev-1")}


async def test_a_renewed_certificate_is_beside_the_old_one_until_it_is_used(served, hub):
    async with served(SECTION) as manager:
        await manager.register_device("dev-1", "sensor")
        old = await issued(manager)
        new = await renewed(manager, old)
        await caught_up(manager)
        assert held(hub) == sorted([fingerprint(old), fingerprint(new)])

        await (await manager.open()).security.identify(der_of(new.pem.encode()))
        await caught_up(manager)

        assert held(hub) == [fingerprint(new)]


async def test_the_old_one_is_gone_once_its_overlap_is_over_though_the_new_one_was_never_used():
    hub, clock = MemoryHub(), MovableClock()
    async with IoTFleetManager(clock=clock) as manager:
        fleet = await manager.open()
        await manager.register_device("dev-1", "sensor")
        old = await issued(manager)
        new = await renewed(manager, old)
        await run(fleet, hub, Death())
        assert len(held(hub)) == 2

        await clock.advance(OVERLAP.total_seconds() + 1)
        await fleet.security.maintain()
        await run(fleet, hub, Death())

        assert held(hub) == [fingerprint(new)]


@pytest.mark.parametrize("more", ["", "delete = true\nremovals_per_day = 0\n"])
@pytest.mark.parametrize("how", ["certificate", "device", "erased"])
async def test_what_was_revoked_goes_without_delete_and_waits_for_no_budget(served, hub, more, how):
    async with served(SECTION + "\n" + more) as manager:
        await manager.register_device("dev-1", "sensor")
        record = await issued(manager)
        await caught_up(manager)
        assert KEY in hub.held

        if how == "certificate":
            await manager.revoke_certificate(record.id)
        elif how == "device":
            await manager.revoke_device("dev-1")
        else:
            await manager.erase_device("dev-1")
        await _until_gone(manager, hub)

        assert registry("dev-1") in hub.held, "what opens nothing stays, as the section says"


async def test_one_that_came_without_an_answer_goes_when_it_is_revoked(served, hub):
    async with served(SECTION) as manager:
        await manager.register_device("dev-1", "sensor")
        await caught_up(manager)
        hub.lose_answers(1)
        record = await issued(manager)
        await until(lambda: KEY in hub.held)
        await manager.pause_mirror("memory")
        await manager.revoke_certificate(record.id)
        await manager.resume_mirror("memory")

        await caught_up(manager)
        assert KEY not in hub.held


async def _until_gone(manager, hub):
    await manager.wait_idle()
    mirror = (await manager.open()).mirrors["memory"]
    await mirror.tracker.catch_up(await (await manager.open()).storage.position())
    await mirror.sender.caught_up()
    assert KEY not in hub.held


async def test_a_plan_names_a_certificate_that_would_go(served, hub):
    async with served(SECTION) as manager:
        await manager.register_device("dev-1", "sensor")
        record = await issued(manager)
        await caught_up(manager)
        await manager.pause_mirror("memory")
        await manager.revoke_certificate(record.id)

        assert await plan(manager) == [("certificate/dev-1", "remove")]


async def test_a_device_that_the_query_selects_no_more_is_let_in_no_more(served, hub):
    async with served(f"{SECTION}\nwhere = \"attributes.site = 'north'\"") as manager:
        await manager.register_device("dev-1", "sensor", {"site": "north"})
        await issued(manager)
        await caught_up(manager)
        assert KEY in hub.held

        await manager.update_device("dev-1", attributes={"site": "south"})
        await caught_up(manager)
        assert KEY not in hub.held

        await manager.update_device("dev-1", attributes={"site": "north"})
        await caught_up(manager)
        assert KEY in hub.held


async def test_a_certificate_of_a_ca_that_is_trusted_no_more_goes(served, hub):
    async with served(SECTION) as manager:
        fleet = await manager.open()
        await manager.register_device("dev-1", "sensor")
        record = await issued(manager)
        await caught_up(manager)
        await fleet.security.rotation.renew_issuing(actor="olga", reason="a leak")
        await fleet.security.rotation.distrust(record.issuer, force=True, actor="olga", reason="a leak")
        await caught_up(manager)

        assert KEY not in hub.held


async def test_what_was_changed_at_the_hub_is_drift_and_mended(served, hub):
    async with served(SECTION) as manager:
        await manager.register_device("dev-1", "sensor")
        record = await issued(manager)
        await caught_up(manager)
        hub.edit(KEY, {"certificates": []})
        assert await drift(manager) == [("certificate/dev-1", "differs")]

        operation = await manager.apply_mirror("memory")
        await (await manager.open()).operations.run(operation.id)
        await caught_up(manager)

        assert held(hub) == [fingerprint(record)]


async def test_a_certificate_is_left_as_it_is_while_it_is_paused(served, hub):
    async with served(SECTION) as manager:
        await manager.register_device("dev-1", "sensor")
        record = await issued(manager)
        await caught_up(manager)
        await manager.pause_mirror("memory", entity="certificate/dev-1")
        await manager.revoke_certificate(record.id)
        await caught_up(manager)
        assert KEY in hub.held

        await manager.resume_mirror("memory", entity="certificate/dev-1")
        await caught_up(manager)
        assert KEY not in hub.held


async def test_a_hub_that_holds_no_certificates_is_sent_none_and_says_so(served, hub, monkeypatch):
    limits = CloudLimits(items=10)
    init = MemoryCloud.__init__
    monkeypatch.setattr(MemoryCloud, "__init__", lambda self, *a, **k: init(self, *a, **{**k, "limits": limits}))
    async with served(SECTION) as manager:
        await manager.register_device("dev-1", "sensor")
        await issued(manager)
        await caught_up(manager)
        letters = [(each.entity, each.reason) for each in await manager.list_mirror_dead_letters("memory")]
        checked = await manager.check_mirror("memory")

        assert set(hub.held) == {registry("dev-1")}
        assert letters == [("certificate/dev-1", "This hub does not hold certificates")]
        assert [(each.what, each.remedy) for each in checked.findings if each.state == "problem"] == [
            ("certificates", "Remove certificates from mirror")
        ]
        assert await drift(manager) == []


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("where", WHERE)
async def test_a_revoked_certificate_is_gone_wherever_the_mirror_is_killed(where, number):
    hub = MemoryHub()
    async with IoTFleetManager(clock=MovableClock()) as manager:
        fleet = await manager.open()
        await manager.register_device("dev-1", "sensor")
        old = await issued(manager)
        await run(fleet, hub, Death(where, number), deletes=False)
        new = await issued(manager)
        await fleet.security.revoke(serial=old.id)
        await run(fleet, hub, Death(where, number), deletes=False)
        await run(fleet, hub, Death(), deletes=False)
        assert held(hub) == [fingerprint(new)]

        await manager.erase_device("dev-1")
        await run(fleet, hub, Death(where, number), deletes=False)
        await run(fleet, hub, Death(), deletes=False)

        assert set(hub.held) == {registry("dev-1")}
