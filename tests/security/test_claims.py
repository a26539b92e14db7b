"""Claim certificates: what a batch may do, that it may do nothing else, and that its two steps survive lost answers."""

import asyncio

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fleetcore.errors import Conflict, NotAuthenticated, NotAuthorised, Refused, Unavailable
from fleetcore.fleet.security import SecurityManager
from fleetcore.interfaces.protocol import EnrollRequest
from fleetcore.model.credential import CertificateState

from .conftest import DAY, HOUR, csr, der, leaf_of, new_key


async def batch(manager, name="batch-7", quota=10, **options):
    made = await manager.claims.create(name, quota=quota, **options)
    return x509.load_pem_x509_certificate(made.certificate.encode()).public_bytes(Encoding.DER)


def begin(claim, device="th-1", key=None, **members):
    return EnrollRequest(csr=csr(device, key), certificate=claim, source="192.0.2.7", **members)


def register(claim, begun, **parameters):
    return EnrollRequest(certificate=claim, ownership=begun.body["ownership_token"], parameters=parameters)


async def test_a_device_of_the_batch_enrols_in_two_steps(manager, registry):
    claim = await batch(manager, device_type="sensor", tags=["plant-2"])
    begun = await manager.enroll(begin(claim))
    with pytest.raises(NotAuthorised):
        await manager.identify(der(leaf_of(begun)))
    assert await registry.find("th-1") is None

    done = await manager.enroll(register(claim, begun, model="tx2", serial="7"))

    assert (begun.body["state"], begun.body["expires_in_s"]) == ("pending_activation", 3600)
    assert leaf_of(done) == leaf_of(begun)
    assert (await manager.identify(der(leaf_of(done))))[0] == "th-1"
    device = await registry.find("th-1")
    assert (device.type, device.model, device.tags) == ("sensor", "tx2", ("plant-2",))


async def test_parameters_at_once_save_the_second_step(manager, registry):
    claim = await batch(manager)

    done = await manager.enroll(begin(claim, parameters={"serial": "7"}))

    assert "ownership_token" not in done.body
    assert (await manager.identify(der(leaf_of(done))))[0] == "th-1"


async def test_a_claim_certificate_is_no_devices_identity(manager):
    claim = await batch(manager)

    with pytest.raises(NotAuthenticated) as refused:
        await manager.identify(claim)

    assert refused.value.code == "certificate_invalid"


async def test_registering_again_with_the_same_parameters_answers_the_same_and_with_others_conflicts(manager, storage):
    claim = await batch(manager)
    begun = await manager.enroll(begin(claim))
    first = await manager.enroll(register(claim, begun, serial="7"))

    again = await manager.enroll(register(claim, begun, serial="7"))

    assert leaf_of(again) == leaf_of(first)
    with pytest.raises(Conflict):
        await manager.enroll(register(claim, begun, serial="8"))
    refused = storage.events[-1]
    assert (refused.type, refused.subject) == ("enrollment.refused", "th-1")


async def test_beginning_again_with_the_same_key_costs_no_second_place(manager):
    claim, key = await batch(manager, quota=1), new_key()
    lost = await manager.enroll(begin(claim, key=key))

    begun = await manager.enroll(begin(claim, key=key))

    assert leaf_of(begun) == leaf_of(lost)
    with pytest.raises(NotAuthenticated):
        await manager.enroll(register(claim, lost))
    assert leaf_of(await manager.enroll(register(claim, begun))) == leaf_of(lost)


async def test_the_quota_holds_when_all_ask_at_once(manager, storage):
    claim = await batch(manager, quota=10)

    replies = await asyncio.gather(
        *(manager.enroll(begin(claim, f"th-{number}", at_once=True)) for number in range(30)), return_exceptions=True
    )

    codes = [getattr(one, "code", "") for one in replies]
    assert (codes.count(""), codes.count("quota_exceeded")) == (10, 20)
    assert [event.type for event in storage.events].count("claim.quota_exceeded") == 1


async def test_a_batch_takes_so_many_a_minute(manager, clock):
    claim = await batch(manager, per_minute=2)
    await manager.enroll(begin(claim, "th-1"))
    await manager.enroll(begin(claim, "th-2"))

    with pytest.raises(Unavailable) as refused:
        await manager.enroll(begin(claim, "th-3"))

    assert (refused.value.code, 0 < refused.value.retry_after_s <= 60) == ("rate_limited", True)
    await clock.advance(61)
    await manager.enroll(begin(claim, "th-3"))


async def test_what_is_not_registered_in_an_hour_ends_and_gives_its_place_back(manager, clock, storage, authority):
    claim, key = await batch(manager, quota=1), new_key()
    begun = await manager.enroll(begin(claim, key=key))
    clock.jump(HOUR)

    with pytest.raises(NotAuthenticated):
        await manager.enroll(register(claim, begun))
    await manager.maintain()

    assert [one.state for one in await manager.inventory("th-1")] == [CertificateState.REVOKED]
    assert (await manager.claims.batches.find())[0].used == 0
    again = await manager.enroll(begin(claim, key=key, at_once=True))
    assert leaf_of(again) != leaf_of(begun)
    # The one that ended stays refused, also for who reads it all anew.
    fresh = SecurityManager(storage, clock, authority, manager._enrollment._directory)
    await fresh.load()
    with pytest.raises(NotAuthorised):
        await fresh.identify(der(leaf_of(begun)))
    assert (await fresh.identify(der(leaf_of(again))))[0] == "th-1"


async def test_one_that_waits_is_refused_after_a_restart_too(manager, storage, clock, authority, registry):
    claim = await batch(manager)
    begun = await manager.enroll(begin(claim))

    fresh = SecurityManager(storage, clock, authority, registry)
    await fresh.load()

    with pytest.raises(NotAuthorised):
        await fresh.identify(der(leaf_of(begun)))
    await fresh.enroll(register(claim, begun))
    assert (await fresh.identify(der(leaf_of(begun))))[0] == "th-1"


async def test_a_disabled_batch_enrols_nobody_and_its_devices_stay(manager):
    claim = await batch(manager)
    done = await manager.enroll(begin(claim, at_once=True))
    begun = await manager.enroll(begin(claim, "th-2"))

    await manager.disable_claim("batch-7", actor="olga", reason="stolen")

    for request in (begin(claim, "th-3"), register(claim, begun)):
        with pytest.raises(NotAuthorised):
            await manager.enroll(request)
    assert (await manager.identify(der(leaf_of(done))))[0] == "th-1"


@pytest.mark.parametrize(("model", "serial"), [("tx3", "7"), ("tx2", "8"), (None, "7"), ("tx2", None), (["tx2"], "7")])
async def test_what_the_batch_does_not_list_is_not_registered(manager, registry, model, serial):
    claim = await batch(manager, models=["tx2"], serials=["7"])
    begun = await manager.enroll(begin(claim))

    with pytest.raises(NotAuthorised):
        await manager.enroll(register(claim, begun, model=model, serial=serial))

    assert await registry.find("th-1") is None
    await manager.enroll(register(claim, begun, model="tx2", serial="7"))


async def test_each_listed_serial_enrols_one_device_once(manager, registry):
    claim = await batch(manager, serials=["7", "8"])
    begun = [await manager.enroll(begin(claim, f"th-{n}")) for n in range(5)]

    replies = await asyncio.gather(
        *(manager.enroll(register(claim, one, serial="7")) for one in begun), return_exceptions=True
    )

    refused = [reply for reply in replies if isinstance(reply, Exception)]
    assert [type(error) for error in refused] == [NotAuthorised] * 4
    assert all("Another device has enrolled with this serial" in str(error) for error in refused)
    first = next(n for n, reply in enumerate(replies) if not isinstance(reply, Exception))
    assert [n for n in range(5) if await registry.find(f"th-{n}")] == [first]
    # The same device again is a repetition; another one enrols with its own serial.
    await manager.enroll(register(claim, begun[first], serial="7"))
    await manager.enroll(register(claim, begun[(first + 1) % 5], serial="8"))


async def test_an_id_that_is_registered_is_not_taken_over(manager, registry):
    await registry.register("th-1", "sensor")
    claim = await batch(manager)

    with pytest.raises(Conflict):
        await manager.enroll(begin(claim, at_once=True))

    assert await manager.inventory("th-1") == []


async def test_of_two_keys_that_claim_one_id_one_gets_it(manager):
    claim = await batch(manager)
    begun = [await manager.enroll(begin(claim, "th-1")) for _ in range(2)]

    replies = await asyncio.gather(*(manager.enroll(register(claim, one)) for one in begun), return_exceptions=True)

    assert sorted(getattr(one, "code", "") for one in replies) == ["", "already_exists"]
    states = sorted(one.state for one in await manager.inventory("th-1"))
    assert states == [CertificateState.ACTIVE, CertificateState.PENDING_ACTIVATION]


async def test_an_ownership_token_goes_with_its_own_batch(manager):
    claim, other = await batch(manager), await batch(manager, "batch-8")
    begun = await manager.enroll(begin(claim))

    for certificate in (other, None):
        with pytest.raises(NotAuthenticated):
            await manager.enroll(register(certificate, begun))


async def test_a_claim_of_another_fleet_or_past_its_end_opens_nothing(manager, clock):
    claim = await batch(manager, days=1)
    clock.jump(2 * DAY)

    with pytest.raises((NotAuthenticated, NotAuthorised)) as refused:
        await manager.enroll(begin(claim))

    assert refused.value.code == "certificate_invalid"


@pytest.mark.parametrize(
    "wrong", [{"quota": 0}, {"days": 0}, {"days": 1e300}, {"days": float("nan")}, {"per_minute": 0}, {"serials": [""]}]
)
async def test_a_batch_that_makes_no_sense_is_not_made(manager, wrong):
    with pytest.raises(Refused):
        await manager.claims.create("batch-7", **{"quota": 1, **wrong})


@pytest.mark.parametrize("name", ["", "a:b", "a/b", "x" * 41, "a\n", "+"])
async def test_a_batch_needs_a_plain_name(manager, name):
    with pytest.raises(Refused):
        await manager.claims.create(name, quota=1)


async def test_a_batch_is_made_once(manager):
    await batch(manager)

    with pytest.raises(Conflict):
        await batch(manager)


async def test_no_secret_of_a_batch_is_stored(manager, storage):
    made = await manager.claims.create("batch-7", quota=1)
    claim = x509.load_pem_x509_certificate(made.certificate.encode()).public_bytes(Encoding.DER)
    begun = await manager.enroll(begin(claim))

    stored = repr([put.body for put in storage.records.values()])
    assert made.key.splitlines()[1] not in stored
    assert begun.body["ownership_token"] not in stored
    assert made.key not in repr(made)


async def test_those_who_wait_for_their_turn_get_nothing_once_the_batch_is_disabled(manager):
    claim = await batch(manager, quota=100)
    asking = [asyncio.create_task(manager.enroll(begin(claim, f"th-{number}"))) for number in range(20)]
    while not (await manager.claims.batches.find())[0].used:
        await asyncio.sleep(0)

    await manager.disable_claim("batch-7", reason="stolen")
    used = (await manager.claims.batches.find())[0].used
    replies = await asyncio.gather(*asking, return_exceptions=True)

    assert (await manager.claims.batches.find())[0].used == used
    assert sum(not isinstance(one, Exception) for one in replies) == used < 20
