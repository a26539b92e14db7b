"""Who gets a certificate and who does not; that a lost answer costs nothing; that races have one winner."""

import asyncio
import contextlib
from collections import Counter

import pytest
from attrs import evolve
from cryptography.hazmat.primitives.serialization import Encoding

from fleetcore.errors import (
    Conflict,
    FleetError,
    NotAuthenticated,
    NotAuthorised,
    NotFound,
    PluginError,
    Refused,
    StorageError,
)
from fleetcore.fleet.security import SecurityManager
from fleetcore.fleet.security.admission import AlwaysOpen, Required
from fleetcore.fleet.security.enrollment import StrangerRefused
from fleetcore.interfaces.admission import Admission, Admit, BlockingAdmission, Refuse, Wait
from fleetcore.interfaces.protocol import EnrollRequest
from fleetcore.model.credential import CertificateState, EnrollmentState
from fleetcore.model.device import Lifecycle
from fleetcore.model.message import Reply
from fleetcore.pipeline.refusals import Refusals
from fleetcore.runtime.plane.enrolling import enroll
from fleetcore.testing.faults import Stuck

from .conftest import DAY, HOUR, csr, der, leaf_of, new_key, spki


def ask(device: str = "th-1", key=None, token: str | None = None, **members) -> EnrollRequest:
    return EnrollRequest(csr=csr(device, key), token=token, source="192.0.2.7", **members)


def issued(storage) -> list:
    return [put for (kind, _), put in storage.records.items() if kind == "certificate"]


# --- by the registered key ---------------------------------------------------------------------------------------


async def test_a_device_with_its_registered_key_gets_a_certificate_at_once(manager, registry):
    key = new_key()
    await registry.register("th-1", "sensor", key_id=spki(key))

    reply = await manager.enroll(ask(key=key))

    assert await manager.identify(der(leaf_of(reply))) == ("th-1", (await manager.inventory("th-1"))[0].id)


async def test_the_answer_has_all_that_a_device_needs(manager, registry):
    key = new_key()
    await registry.register("th-1", "sensor", key_id=spki(key))
    manager.endpoints = ["mqtts://fleet.example:8883"]

    body = (await manager.enroll(ask(key=key))).body

    assert set(body) == {"device", "certificate", "chain", "ca", "not_after", "renew_after", "endpoints"}
    assert body["device"] == "th-1"
    assert body["renew_after"] < body["not_after"]
    assert body["endpoints"] == ["mqtts://fleet.example:8883"]


async def test_another_key_than_the_registered_one_is_refused(manager, registry, storage):
    await registry.register("th-1", "sensor", key_id=spki(new_key()))

    with pytest.raises(NotAuthorised):
        await manager.enroll(ask())

    assert issued(storage) == []


async def test_the_same_request_again_gets_the_same_certificate(manager, registry, storage):
    key = new_key()
    await registry.register("th-1", "sensor", key_id=spki(key))

    replies = await asyncio.gather(*(manager.enroll(ask(key=key)) for _ in range(16)))

    assert len({leaf_of(reply) for reply in replies}) == len(issued(storage)) == 1


# --- by an operator's acceptance ----------------------------------------------------------------------------------


async def test_an_unknown_device_is_refused(manager):
    with pytest.raises(NotAuthorised) as refused:
        await manager.enroll(ask())

    assert refused.value.code == "device_unknown"


async def test_a_key_that_nobody_accepted_waits(manager, registry, storage):
    key = new_key()
    await registry.register("th-1", "sensor")

    reply = await manager.enroll(ask(key=key))

    assert (reply.status, reply.body["fingerprint"], reply.body["retry_after_s"]) == (202, spki(key), 30)
    assert issued(storage) == []


async def test_an_accepted_key_gets_its_certificate_when_it_asks_again(manager, registry):
    key = new_key()
    await registry.register("th-1", "sensor")
    await manager.enroll(ask(key=key))
    fingerprint = (await manager.enrollments(EnrollmentState.PENDING))[0].fingerprint

    await manager.approve("th-1", fingerprint.upper(), actor="olga", reason="seen on the bench")

    assert (await manager.enroll(ask(key=key))).status == 201


async def test_a_rejected_key_stays_out(manager, registry):
    key = new_key()
    await registry.register("th-1", "sensor")
    await manager.enroll(ask(key=key))

    await manager.reject("th-1", spki(key), actor="olga")

    with pytest.raises(NotAuthorised):
        await manager.enroll(ask(key=key))


async def test_a_key_that_never_knocked_cannot_be_accepted(manager, registry):
    await registry.register("th-1", "sensor")

    with pytest.raises(NotFound):
        await manager.approve("th-1", spki(new_key()))


async def test_a_shortened_fingerprint_is_not_accepted(manager, registry):
    key = new_key()
    await registry.register("th-1", "sensor")
    await manager.enroll(ask(key=key))

    with pytest.raises(NotFound):
        await manager.approve("th-1", spki(key)[:16])


async def test_accepting_a_second_key_keeps_the_first_unless_it_is_to_be_replaced(manager, registry):
    await registry.register("th-1", "sensor")
    leaves = []
    for replace in (False, False, True):
        key = new_key()
        await manager.enroll(ask(key=key))
        await manager.approve("th-1", spki(key), replace=replace)
        leaves.append(der(leaf_of(await manager.enroll(ask(key=key)))))
        await manager.identify(leaves[-1])

    worth = [(await manager.validate(leaf)).valid for leaf in leaves]

    assert worth == [False, False, True]


async def test_strangers_cannot_fill_the_waiting_room(manager, registry, storage):
    await registry.register("th-1", "sensor")
    for host in range(5):
        await manager.enroll(evolve(ask(), source=f"192.0.2.{host}:1"))

    with pytest.raises(StrangerRefused) as refused:
        await manager.enroll(evolve(ask(), source="192.0.2.9:1"))

    assert refused.value.code == "rate_limited"


async def test_one_address_takes_two_of_a_devices_places(manager, registry):
    await registry.register("th-1", "sensor")
    for port in range(2):
        await manager.enroll(evolve(ask(), source=f"192.0.2.7:{port}"))

    with pytest.raises(StrangerRefused) as refused:
        await manager.enroll(evolve(ask(), source="192.0.2.7:9"))
    other = await manager.enroll(evolve(ask(), source="192.0.2.8:9"))

    assert (refused.value.code, other.status) == ("rate_limited", 202)


async def test_a_place_goes_from_a_key_that_is_silent_to_the_next_and_a_device_that_asks_keeps_its_own(
    manager, registry, clock
):
    await registry.register("th-1", "sensor")
    device = evolve(ask(), source="192.0.2.100:1")
    await manager.enroll(device)
    for host in range(4):
        await manager.enroll(evolve(ask(), source=f"192.0.2.{host}:1"))

    await clock.advance(599)
    await manager.enroll(device)
    await clock.advance(2)
    late = await manager.enroll(evolve(ask(), source="192.0.2.50:1"))
    waiting = [one.source for one in await manager.enrollments()]

    assert late.status == 202
    assert len(waiting) == 5
    assert {"192.0.2.100:1", "192.0.2.50:1"} <= set(waiting)


STANDINGS = ["unknown", "waiting", "suspended", "retired", "registered with a key", "full"]


@pytest.mark.parametrize("standing", STANDINGS)
@pytest.mark.parametrize("how", ["small", "long"])
async def test_a_stranger_hears_the_same_of_every_id_and_the_audit_log_has_the_reason(
    manager, registry, storage, standing, how
):
    if standing != "unknown":
        await registry.register("th-1", "sensor", key_id="ab" * 32 if standing == "registered with a key" else None)
    if standing in ("suspended", "retired"):
        await storage.commit(registry.moving(await registry.get("th-1"), Lifecycle(standing)))
    if standing == "full":
        for host in range(5):
            await manager.enroll(evolve(ask(), source=f"192.0.2.{host}:1"))
    refusals, before = Refusals(lambda *_: None), len(storage.events)
    asked = ask(parameters={"serial": "x" * 5000} if how == "long" else {})

    reply = await enroll(manager, asked, refusals)

    if how == "long":
        assert (reply.status, reply.error["code"]) == (413, "limit_exceeded")
        return
    spki = reply.body["fingerprint"]
    assert reply == Reply(
        status=202,
        body={"code": "enrollment_pending", "device": "th-1", "fingerprint": spki, "retry_after_s": 30},
    )
    told = {
        "unknown": "device_unknown",
        "waiting": "",
        "suspended": "device_suspended",
        "retired": "device_retired",
        "registered with a key": "not_authorised",
        "full": "rate_limited",
    }[standing]
    event = storage.events[before]
    assert (event.type, event.reason) == (f"enrollment.{'refused' if told else 'pending'}", told)
    assert dict(refusals.counts) == ({(asked.protocol, told): 1} if told else {})


async def test_wrong_tokens_of_an_address_are_slowed_and_a_good_one_still_passes(manager):
    wrong = evolve(ask(token=f"fc_enr_{'0' * 16}_{'x' * 43}"), source="192.0.2.7:1")
    codes = []
    for _ in range(21):
        with pytest.raises(FleetError) as refused:
            await manager.enroll(wrong)
        codes.append(refused.value.code)
    token = await manager.enrollment_tokens.create()

    good = await manager.enroll(evolve(ask("th-2", token=token), source="192.0.2.7:2"))
    with pytest.raises(NotAuthenticated):
        await manager.enroll(evolve(wrong, source="192.0.2.8:1"))

    assert codes == ["token_spent"] * 20 + ["rate_limited"]
    assert good.status == 201


async def test_what_a_stranger_says_about_itself_is_bounded(manager, registry):
    await registry.register("th-1", "sensor")

    with pytest.raises(Refused) as refused:
        await manager.enroll(ask(parameters={"serial": "x" * 5000}))

    assert refused.value.code == "limit_exceeded"


# --- by a token ---------------------------------------------------------------------------------------------------


async def test_a_token_registers_a_new_device_of_its_type_and_certifies_it(manager, registry):
    token = await manager.enrollment_tokens.create(device_type="temperature-sensor")

    reply = await manager.enroll(ask(token=token))

    assert reply.status == 201
    assert (await registry.get("th-1")).type == "temperature-sensor"


async def test_one_token_used_64_times_at_once_gives_exactly_one_certificate(manager, storage, registry):
    token = await manager.enrollment_tokens.create(uses=1)

    replies = await asyncio.gather(
        *(manager.enroll(ask(f"th-{number}", token=token)) for number in range(64)), return_exceptions=True
    )

    assert len(issued(storage)) == 1
    assert [reply.status for reply in replies if not isinstance(reply, Exception)] == [201]
    assert {reply.code for reply in replies if isinstance(reply, Exception)} <= {"token_spent", "rate_limited"}
    assert len(await registry.list()) == 1


async def test_without_the_lock_the_store_alone_keeps_a_token_from_being_spent_twice(manager, storage):
    # Two servers on one store have no lock in common.
    token = await manager.enrollment_tokens.create(uses=1)
    other = SecurityManager(storage, manager._clock, manager.authority, manager._enrollment._directory)

    replies = await asyncio.gather(
        *(one.enroll(ask(f"th-{number}", token=token)) for number, one in enumerate([manager, other] * 8)),
        return_exceptions=True,
    )

    assert len(issued(storage)) == 1
    assert {reply.code for reply in replies if isinstance(reply, Exception)} == {"token_spent"}


async def test_a_token_of_many_uses_serves_exactly_that_many(manager, storage):
    token = await manager.enrollment_tokens.create(uses=10)

    await asyncio.gather(
        *(manager.enroll(ask(f"th-{number}", token=token)) for number in range(30)), return_exceptions=True
    )

    assert len(issued(storage)) == 10


async def test_a_device_whose_answer_was_lost_is_served_again_and_not_charged(manager, storage):
    token, key = await manager.enrollment_tokens.create(uses=2), new_key()
    first = await manager.enroll(ask(key=key, token=token))

    again = await manager.enroll(ask(key=key, token=token))

    assert leaf_of(again) == leaf_of(first)
    assert (await manager.enrollment_tokens.records.find())[0].left == 1


async def test_the_same_request_64_times_at_once_gives_one_certificate_to_all(manager, storage, registry):
    token, key = await manager.enrollment_tokens.create(uses=1), new_key()

    replies = await asyncio.gather(*(manager.enroll(ask(key=key, token=token)) for _ in range(64)))

    assert len({leaf_of(reply) for reply in replies}) == len(issued(storage)) == 1
    assert [device.id for device in await registry.list()] == ["th-1"]


async def test_of_two_tokens_that_want_one_new_id_at_once_one_gets_it(manager, registry, storage):
    tokens = [await manager.enrollment_tokens.create(uses=2) for _ in range(8)]

    replies = await asyncio.gather(*(manager.enroll(ask(token=token)) for token in tokens), return_exceptions=True)

    assert len(issued(storage)) == 1
    assert sorted(getattr(one, "code", None) or "" for one in replies) == ["", *["already_exists"] * 7]
    assert sum(token.left for token in await manager.enrollment_tokens.records.find()) == 15


@pytest.mark.parametrize(
    "spoil",
    [lambda token: token[:-1] + ("A" if token[-1] != "A" else "B"), lambda token: "fc_enr_" + "0" * 16 + token[23:]],
    ids=["secret", "id"],
)
async def test_a_wrong_token_is_refused(manager, storage, spoil):
    token = await manager.enrollment_tokens.create()

    with pytest.raises(NotAuthenticated) as refused:
        await manager.enroll(ask(token=spoil(token)))

    assert (refused.value.code, issued(storage)) == ("token_spent", [])


@pytest.mark.parametrize("token", ["", "x", "fc_enr_", "fc_enr_0123456789abcdef_é", "fc_dev_th-1_" + "x" * 43])
async def test_what_is_no_token_is_refused(manager, token):
    with pytest.raises(NotAuthenticated):
        await manager.enroll(ask(token=token))


async def test_an_expired_token_is_refused_even_for_who_used_it(manager, clock):
    token, key = await manager.enrollment_tokens.create(ttl_s=3600), new_key()
    await manager.enroll(ask(key=key, token=token))

    clock.jump(HOUR)

    with pytest.raises(NotAuthenticated):
        await manager.enroll(ask(key=key, token=token))


async def test_a_revoked_token_is_refused(manager):
    token = await manager.enrollment_tokens.create()

    await manager.enrollment_tokens.revoke(token.split("_")[2], actor="olga")

    with pytest.raises(NotAuthenticated):
        await manager.enroll(ask(token=token))


@pytest.mark.parametrize(
    ("source", "good"),
    [
        ("192.0.2.7", True),
        ("192.0.2.7:50123", True),
        ("::ffff:192.0.2.7:50123", True),
        ("2001:db8::7:50123", True),
        ("[2001:db8::7]:50123", True),
        ("192.0.3.7:50123", False),
        ("2001:db9::7:50123", False),
        ("", False),
        ("/run/proxy.sock", False),
    ],
)
async def test_a_token_for_a_network_is_good_from_there_alone(manager, storage, source, good):
    token = await manager.enrollment_tokens.create(networks=["192.0.2.0/24", "2001:db8::/32"])
    request = evolve(ask(token=token), source=source)

    if good:
        assert (await manager.enroll(request)).status == 201
    else:
        with pytest.raises(NotAuthorised) as refused:
            await manager.enroll(request)
        assert (refused.value.code, issued(storage)) == ("not_authorised", [])
        assert (await manager.enrollment_tokens.records.find())[0].left == 1


@pytest.mark.parametrize("network", ["", "lab", "192.0.2.1/24", "192.0.2.0/33", "192.0.2.0/24, 10.0.0.0/8"])
async def test_what_is_no_network_makes_no_token(manager, network):
    with pytest.raises(Refused):
        await manager.enrollment_tokens.create(networks=[network])

    assert await manager.enrollment_tokens.records.find() == []


async def test_a_token_for_one_device_serves_no_other(manager, registry, storage):
    await registry.register("th-1", "sensor")
    token = await manager.enrollment_tokens.create(device="th-1")

    with pytest.raises(NotAuthorised) as refused:
        await manager.enroll(ask("th-2", token=token))

    assert (refused.value.code, issued(storage)) == ("not_your_device", [])


async def test_a_token_for_new_devices_cannot_take_a_registered_one_over(manager, registry, storage):
    await registry.register("th-1", "sensor")
    token = await manager.enrollment_tokens.create(uses=5)

    with pytest.raises(Conflict) as refused:
        await manager.enroll(ask(token=token))

    assert (refused.value.code, issued(storage)) == ("already_exists", [])


async def test_an_id_that_differs_in_case_alone_is_refused_and_gets_no_certificate(manager, registry):
    await registry.register("th-1", "sensor")
    token = await manager.enrollment_tokens.create()

    with pytest.raises(Conflict) as refused:
        await manager.enroll(ask("TH-1", token=token))

    assert (refused.value.code, await manager.inventory("TH-1")) == ("already_exists", [])


@pytest.mark.parametrize("state", [Lifecycle.SUSPENDED, Lifecycle.RETIRED])
async def test_a_device_out_of_service_gets_no_certificate(manager, registry, storage, state):
    await registry.register("th-1", "sensor")
    await storage.commit(registry.moving(await registry.get("th-1"), state))
    token = await manager.enrollment_tokens.create(device="th-1")

    with pytest.raises(NotAuthorised) as refused:
        await manager.enroll(ask(token=token))

    assert (refused.value.code, issued(storage)) == (f"device_{state}", [])


@pytest.mark.parametrize("uses", [0, -1, 10**7])
async def test_a_token_without_a_sensible_number_of_uses_is_not_made(manager, uses):
    with pytest.raises(Refused):
        await manager.enrollment_tokens.create(uses=uses)


async def test_the_store_has_no_secret(manager, storage):
    secrets = [await manager.enrollment_tokens.create(), await manager.device_tokens.issue("th-1")]

    dump = repr(storage.records) + repr(storage.events)

    assert not any(secret[-43:] in dump for secret in secrets)


# --- keys ---------------------------------------------------------------------------------------------------------


async def test_a_key_of_another_device_is_refused(manager, storage):
    token, key = await manager.enrollment_tokens.create(uses=2), new_key()
    await manager.enroll(ask("th-1", key=key, token=token))

    with pytest.raises(Conflict) as refused:
        await manager.enroll(ask("th-2", key=key, token=token))

    assert (refused.value.code, len(issued(storage))) == ("key_in_use", 1)


async def test_two_devices_that_race_with_one_key_do_not_both_get_it(manager, storage):
    tokens, key = [await manager.enrollment_tokens.create() for _ in range(2)], new_key()

    replies = await asyncio.gather(
        *(manager.enroll(ask(f"th-{i}", key=key, token=token)) for i, token in enumerate(tokens)),
        return_exceptions=True,
    )

    assert [reply.code for reply in replies if isinstance(reply, Exception)] == ["key_in_use"]
    assert len(issued(storage)) == 1


async def test_a_revoked_key_is_never_certified_again(manager, registry):
    key = new_key()
    await registry.register("th-1", "sensor", key_id=spki(key))
    await manager.enroll(ask(key=key))
    await manager.revoke("th-1", reason="stolen")
    token = await manager.enrollment_tokens.create(device="th-1")

    for secret in (None, token):
        with pytest.raises(NotAuthorised) as refused:
            await manager.enroll(ask(key=key, token=secret))
        assert refused.value.code == "device_revoked"


async def test_a_revoked_device_may_come_back_with_a_new_key(manager, registry):
    token = await manager.enrollment_tokens.create()
    await manager.enroll(ask(token=token))
    await manager.revoke("th-1")

    reply = await manager.enroll(ask(token=await manager.enrollment_tokens.create(device="th-1")))

    assert reply.status == 201


async def test_a_revocation_ends_the_tokens_that_were_made_for_the_device_alone(manager, registry):
    await registry.register("th-1", "sensor")
    token = await manager.enrollment_tokens.create(device="th-1", uses=3)
    await manager.enroll(ask(token=token))

    assert await manager.revoke("th-1", reason="stolen") == 2

    with pytest.raises(NotAuthenticated) as refused:
        await manager.enroll(ask(token=token))
    assert refused.value.code == "token_spent"


async def test_a_revocation_ends_a_registered_key_that_was_never_used(manager, registry):
    key = new_key()
    await registry.register("th-1", "sensor", key_id=spki(key))

    assert [await manager.revoke("th-1"), await manager.revoke("th-1")] == [1, 0]

    with pytest.raises(NotAuthorised) as refused:
        await manager.enroll(ask(key=key))
    assert refused.value.code == "device_revoked"


async def test_a_revocation_takes_back_that_a_key_was_accepted(manager, registry):
    key = new_key()
    await registry.register("th-1", "sensor")
    await manager.enroll(ask(key=key))
    await manager.approve("th-1", spki(key))

    await manager.revoke("th-1")

    with pytest.raises(NotAuthorised):
        await manager.enroll(ask(key=key))


@pytest.mark.parametrize(
    ("right", "slips_in"),
    [("token", "revoke"), ("key_id", "revoke"), ("approval", "revoke"), ("approval", "reject")],
)
async def test_who_is_revoked_or_rejected_while_it_enrols_gets_nothing(manager, registry, storage, right, slips_in):
    key = new_key()
    await registry.register("th-1", "sensor", key_id=spki(key) if right == "key_id" else None)
    token = await manager.enrollment_tokens.create(device="th-1") if right == "token" else None
    if right == "approval":
        await manager.enroll(ask(key=key))
        await manager.approve("th-1", spki(key))

    async def slip_in(change):
        if any(event.type == "certificate.issued" for event in change.events):
            storage.before_commit = None
            await (manager.revoke("th-1") if slips_in == "revoke" else manager.reject("th-1", spki(key)))

    storage.before_commit = slip_in

    with pytest.raises((NotAuthorised, NotAuthenticated)):
        await manager.enroll(ask(key=key, token=token))

    assert await manager.inventory("th-1") == []


# --- admission ----------------------------------------------------------------------------------------------------


class Check(Admission):
    """Decides by a coroutine function."""

    def __init__(self, decide):
        self._decide = decide

    async def decide(self, candidate):
        return await self._decide(candidate)


class Blocking(BlockingAdmission):
    """Decides by a function that may block."""

    def __init__(self, decide):
        self._decide = decide

    def decide_blocking(self, candidate):
        return self._decide(candidate)


class NotOpen(Required):
    name = "absent"

    async def opened(self):
        raise PluginError("No plugin offers admission 'absent'")


def admitting(storage, clock, authority, registry, *checks) -> SecurityManager:
    required = [
        one if isinstance(one, Required) else AlwaysOpen(f"check-{number}", one) for number, one in enumerate(checks)
    ]
    return SecurityManager(storage, clock, authority, registry, admissions=required)


def answers(verdict):
    async def decide(_candidate):
        if isinstance(verdict, BaseException):
            raise verdict
        return verdict

    return Check(decide)


def blocks(verdict):
    def decide(_candidate):
        if isinstance(verdict, BaseException):
            raise verdict
        return verdict

    return Blocking(decide)


#: An admission, and what the operator is told of it.
REFUSING = {
    "a reason": (answers(Refuse("not on the list")), "admission 'check-1': not on the list"),
    "a blocking reason": (blocks(Refuse("not on the list")), "admission 'check-1': not on the list"),
    "an error": (answers(ZeroDivisionError("oops")), "admission 'check-1' could not be asked: ZeroDivisionError: oops"),
    "a blocking error": (blocks(ZeroDivisionError("oops")), "could not be asked: ZeroDivisionError: oops"),
    "an exit": (answers(SystemExit(3)), "admission 'check-1' called exit(3)"),
    "a blocking exit": (blocks(SystemExit(3)), "called exit(3)"),
    "the end of an iterator": (blocks(StopIteration()), "could not be asked: RuntimeError: StopIteration"),
    "None": (answers(None), "answered NoneType, not Admit, Refuse or Wait"),
    "True": (blocks(True), "answered bool, not Admit, Refuse or Wait"),
    "the class": (answers(Admit), "answered type, not Admit, Refuse or Wait"),
    "text": (answers("welcome"), "answered str, not Admit, Refuse or Wait"),
    "one that is not open": (NotOpen(), "admission 'absent' could not be asked: PluginError: No plugin offers"),
}


@pytest.mark.parametrize(("check", "why"), REFUSING.values(), ids=REFUSING)
async def test_an_admission_that_does_not_admit_refuses(storage, clock, authority, registry, check, why):
    manager = admitting(storage, clock, authority, registry, answers(Admit()), check)

    with pytest.raises(NotAuthorised) as refused:
        await manager.enroll(ask(token=await manager.enrollment_tokens.create()))

    # The device hears one answer, whatever the reason is.
    assert (str(refused.value), refused.value.code) == ("The device is not admitted", "not_authorised")
    assert (issued(storage), (await manager.enrollment_tokens.records.find())[0].left) == ([], 1)
    (event,) = [one for one in storage.events if one.type == "enrollment.refused"]
    assert event.data["detail"].startswith("The device is not admitted: ")
    assert why in event.data["detail"]


async def test_an_admission_sees_the_device_to_be_and_what_it_says(storage, clock, authority, registry):
    seen = []

    async def admits(candidate):
        seen.append(candidate)
        return Admit()

    key = new_key()
    manager = admitting(storage, clock, authority, registry, Check(admits))
    token = await manager.enrollment_tokens.create(device_type="sensor")

    await manager.enroll(ask(key=key, token=token, parameters={"serial": "S-1"}))

    (candidate,) = seen
    assert (candidate.device.id, candidate.device.type, candidate.parameters) == ("th-1", "sensor", {"serial": "S-1"})
    assert candidate.fingerprint == spki(key)
    assert candidate.issued_via.startswith("token:")


async def test_a_device_that_has_to_wait_gets_202_and_is_judged_when_it_asks_again(storage, clock, authority, registry):
    verdicts = [Wait("the inspector looks at it", 45), Wait("the inspector looks at it", 45), Admit()]

    async def decide(_candidate):
        return verdicts.pop(0)

    key = new_key()
    manager = admitting(storage, clock, authority, registry, Check(decide), answers(Wait("so do we", 10)))
    token = await manager.enrollment_tokens.create()
    asked = ask(key=key, token=token)

    first, second = await manager.enroll(asked), await manager.enroll(asked)
    manager = admitting(storage, clock, authority, registry, Check(decide))
    third = await manager.enroll(asked)

    assert (first.status, first.body) == (second.status, second.body)
    assert (first.status, first.body) == (
        202,
        {"code": "enrollment_pending", "device": "th-1", "fingerprint": spki(key), "retry_after_s": 45},
    )
    assert third.status == 201
    (event,) = [one for one in storage.events if one.type == "enrollment.pending"]
    assert (event.subject, event.reason) == ("th-1", "admission 'check-0': the inspector looks at it")


async def test_a_refusal_outweighs_what_another_admission_waits_for(storage, clock, authority, registry):
    manager = admitting(storage, clock, authority, registry, answers(Wait("later")), answers(Refuse("never")))

    with pytest.raises(NotAuthorised):
        await manager.enroll(ask(token=await manager.enrollment_tokens.create()))


@pytest.mark.parametrize("verdict", [lambda: Refuse(""), lambda: Wait(""), lambda: Wait("a", 0), lambda: Refuse(None)])
def test_a_verdict_without_a_reason_cannot_be_made(verdict):
    with pytest.raises((ValueError, TypeError)):
        verdict()


async def _for_ever(_candidate):
    await asyncio.Event().wait()


async def _stubborn(_candidate):
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
    await asyncio.Event().wait()


@pytest.mark.parametrize("hangs", [_for_ever, _stubborn])
async def test_an_admission_that_hangs_refuses_after_five_seconds(storage, clock, authority, registry, hangs):
    manager = admitting(storage, clock, authority, registry, Check(hangs))
    enrolling = asyncio.create_task(manager.enroll(ask(token=await manager.enrollment_tokens.create())))
    for _ in range(50):
        await asyncio.sleep(0)

    await clock.advance(5)

    with pytest.raises(NotAuthorised) as refused:
        await enrolling
    assert refused.value.ids["reason"] == "admission took longer than 5 s (check-0)"


async def test_code_that_blocks_refuses_after_five_seconds_and_blocks_nobody(storage, clock, authority, registry):
    hangs = Stuck()
    manager = admitting(storage, clock, authority, registry, Blocking(hangs))
    enrolling = asyncio.create_task(manager.enroll(ask(token=await manager.enrollment_tokens.create())))
    for _ in range(50):
        await asyncio.sleep(0)

    await clock.advance(5)

    with pytest.raises(NotAuthorised):
        await enrolling
    assert hangs.returned == 0
    hangs.release()
    assert issued(storage) == []


# --- renewal ------------------------------------------------------------------------------------------------------


@pytest.fixture
async def enrolled(manager, registry):
    """A device with a certificate, the certificate and its key."""
    key = new_key()
    await registry.register("th-1", "sensor", key_id=spki(key))
    return der(leaf_of(await manager.enroll(ask(key=key)))), key


async def test_after_a_renewal_both_certificates_are_good_until_the_new_one_connects(manager, enrolled):
    old, _ = enrolled
    new = der(leaf_of(await manager.renew("th-1", csr("th-1"))))
    before = (await manager.validate(old)).valid

    await manager.identify(new)

    assert before
    assert [(await manager.validate(leaf)).refusal for leaf in (old, new)] == ["superseded", None]


async def test_the_old_certificate_ends_after_a_day_even_if_the_new_one_never_connects(manager, enrolled, clock):
    old, _ = enrolled
    new = der(leaf_of(await manager.renew("th-1", csr("th-1"))))
    clock.jump(DAY - 1)
    before = (await manager.validate(old)).valid

    clock.jump(1)

    assert before
    assert [(await manager.validate(leaf)).refusal for leaf in (old, new)] == ["superseded", None]


async def test_a_superseded_certificate_is_refused_after_a_restart_too(
    manager, enrolled, storage, clock, authority, registry
):
    old, _ = enrolled
    await manager.identify(der(leaf_of(await manager.renew("th-1", csr("th-1")))))

    again = SecurityManager(storage, clock, authority, registry)
    await again.load()

    assert (await again.validate(old)).refusal == "superseded"


async def test_an_overlap_goes_on_over_a_restart_and_is_written_down_at_its_end(
    manager, enrolled, storage, clock, authority, registry
):
    old, _ = enrolled
    await manager.renew("th-1", csr("th-1"))
    again = SecurityManager(storage, clock, authority, registry)
    await again.load()
    during = (await again.validate(old)).valid

    clock.jump(DAY)
    await again.maintain()

    assert during
    states = {record.state for record in await again.inventory("th-1")}
    assert states == {CertificateState.SUPERSEDED, CertificateState.PENDING}


async def test_a_renewal_whose_answer_was_lost_gets_the_same_certificate_again(manager, enrolled):
    key = new_key()
    first = leaf_of(await manager.renew("th-1", csr("th-1", key)))

    assert leaf_of(await manager.renew("th-1", csr("th-1", key))) == first


async def test_a_renewal_for_another_device_is_refused(manager, enrolled, registry):
    await registry.register("th-2", "sensor")

    with pytest.raises(NotAuthorised) as refused:
        await manager.renew("th-1", csr("th-2"))

    assert refused.value.code == "not_your_device"


async def test_a_device_without_a_certificate_has_nothing_to_renew(manager, registry):
    await registry.register("th-1", "sensor")

    with pytest.raises(NotAuthorised):
        await manager.renew("th-1", csr("th-1"))


async def test_a_device_that_is_revoked_while_it_renews_gets_nothing(manager, enrolled, storage):
    async def slip_in(change):
        if any(event.type == "certificate.issued" for event in change.events):
            storage.before_commit = None
            await manager.revoke("th-1", reason="stolen")

    storage.before_commit = slip_in

    with pytest.raises(NotAuthorised):
        await manager.renew("th-1", csr("th-1"))

    assert {record.state for record in await manager.inventory("th-1")} == {CertificateState.REVOKED}


async def test_devices_renew_at_two_thirds_of_the_lifetime_but_not_all_at_once(manager, clock):
    token = await manager.enrollment_tokens.create(uses=50)
    for number in range(50):
        await manager.enroll(ask(f"th-{number}", token=token))

    parts = [(one.renew_after - one.not_before) / (one.not_after - one.not_before) for one in await manager.inventory()]

    assert 0.6 <= min(parts) < 0.63
    assert 0.70 < max(parts) <= 0.7334


# --- what is written down -----------------------------------------------------------------------------------------


async def test_an_issue_is_written_with_who_when_and_why(manager, enrolled, storage):
    event = next(event for event in storage.events if event.type == "certificate.issued")

    assert (event.subject, event.actor, event.reason) == ("th-1", "th-1", "key_id")
    assert event.data["source"] == "192.0.2.7"


async def test_a_refusal_is_written_once_a_minute_however_often_it_happens(manager, storage, clock):
    for _ in range(10):
        with pytest.raises(NotAuthorised):
            await manager.enroll(ask())
    once = [event.reason for event in storage.events]

    clock.jump(60_000)
    with pytest.raises(NotAuthorised):
        await manager.enroll(ask())

    assert once == ["device_unknown"]
    assert len(storage.events) == 2


async def test_one_address_cannot_keep_the_refusals_of_others_out_of_the_audit_log(manager, storage):
    for port in range(100):
        with pytest.raises(NotAuthorised):
            await manager.enroll(evolve(ask(f"th-{port}"), source=f"192.0.2.7:{40_000 + port}"))
        with pytest.raises(NotAuthorised):
            await manager.enroll(evolve(ask("same"), source=f"192.0.2.8:{40_000 + port}"))
    with pytest.raises(NotAuthorised):
        await manager.enroll(evolve(ask("other"), source="192.0.2.9:40000"))

    told = Counter(event.actor.rpartition(":")[0] for event in storage.events)
    assert told == {"192.0.2.7": 20, "192.0.2.8": 1, "192.0.2.9": 1}


async def test_a_store_that_fails_gives_no_certificate(manager, storage, registry):
    token = await manager.enrollment_tokens.create()

    async def fail(_change):
        raise StorageError("disk gone")

    storage.before_commit = fail

    with pytest.raises(StorageError):
        await manager.enroll(ask(token=token))

    storage.before_commit = None
    assert issued(storage) == []
    assert (await manager.enroll(ask(token=token))).status == 201


async def test_a_caller_that_goes_away_leaves_the_enrolment_whole(manager, registry, storage):
    token = await manager.enrollment_tokens.create()
    caller = asyncio.create_task(manager.enroll(ask(token=token)))
    while not issued(storage):
        await asyncio.sleep(0)

    caller.cancel()
    await asyncio.gather(caller, manager._shield.idle(), return_exceptions=True)

    assert await registry.find("th-1") is not None


async def test_a_request_in_der_works_as_well(manager):
    token = await manager.enrollment_tokens.create()

    reply = await manager.enroll(EnrollRequest(csr=csr("th-1", encoding=Encoding.DER), token=token))

    assert reply.status == 201
