"""Revocation at once and for good, tokens, the revocation list, signed commands."""

import asyncio
import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from fleetcore.errors import NotAuthenticated, NotAuthorised, NotFound, Refused
from fleetcore.fleet.security import Refusal, SecurityManager
from fleetcore.wire.dsse import COMMAND_TYPE, verify

from .conftest import DAY, csr, der, new_key


@pytest.fixture
async def leaf(manager, registry) -> bytes:
    await registry.register("th-1", "sensor")
    return await issue(manager)


async def issue(manager, device: str = "th-1") -> bytes:
    record = await manager.issue(csr(device), actor="olga")
    return der(x509.load_pem_x509_certificate(record.pem.encode()))


def test_the_manager_is_reachable_by_its_public_name():
    import fleetcore

    assert fleetcore.SecurityManager is SecurityManager


async def test_a_revoked_certificate_is_refused_at_once(manager, leaf):
    await manager.identify(leaf)

    assert await manager.revoke("th-1", actor="olga", reason="stolen") == 1

    with pytest.raises(NotAuthorised) as refused:
        await manager.identify(leaf)
    assert refused.value.code == "device_revoked"


async def test_it_is_refused_after_a_restart_too(manager, leaf, storage, clock, authority, registry):
    await manager.revoke("th-1")

    again = SecurityManager(storage, clock, authority, registry)
    await again.load()

    with pytest.raises(NotAuthorised):
        await again.identify(leaf)


async def test_it_is_refused_although_the_clock_is_set_back_past_its_expiry(
    manager, leaf, storage, clock, authority, registry
):
    await manager.revoke("th-1")
    clock.jump(91 * DAY)
    again = SecurityManager(storage, clock, authority, registry)
    await again.load()

    clock.jump(-10 * DAY)

    assert (await again.validate(leaf)).refusal is Refusal.REVOKED


async def test_the_sessions_are_told(manager, leaf):
    told = []
    manager.on_revoked(lambda *what: told.append(what))
    (record,) = await manager.inventory("th-1")

    await manager.revoke(serial=record.id)
    await issue(manager)
    await manager.revoke("th-1")

    assert told == [("th-1", "device_revoked", record.id), ("th-1", "device_revoked", None)]


async def test_one_certificate_can_be_revoked_by_its_serial_alone(manager, leaf):
    other = await issue(manager)
    serial = format(x509.load_der_x509_certificate(leaf).serial_number, "x")

    await manager.revoke(serial=serial.upper())

    assert [(await manager.validate(one)).valid for one in (leaf, other)] == [False, True]
    assert manager.is_revoked(manager.authority.issuer, serial)


async def test_a_caller_that_goes_away_does_not_stop_a_revocation(manager, leaf, storage):
    committed = asyncio.Event()

    async def pause(_change):
        committed.set()
        await asyncio.sleep(0.01)

    storage.before_commit = pause
    revoking = asyncio.create_task(manager.revoke("th-1"))
    await committed.wait()

    revoking.cancel()
    await asyncio.gather(revoking, manager._shield.idle(), return_exceptions=True)

    assert (await manager.validate(leaf)).refusal is Refusal.REVOKED


async def test_revoking_a_device_without_credentials_does_nothing(manager, registry):
    await registry.register("th-1", "sensor")

    assert await manager.revoke("th-1") == 0


async def test_revoking_an_unknown_serial_says_so(manager):
    with pytest.raises(NotFound):
        await manager.revoke(serial="abc")


async def test_either_a_device_or_a_serial_is_revoked(manager):
    with pytest.raises(Refused):
        await manager.revoke()


async def test_who_revoked_what_and_why_is_written_in_the_same_commit(manager, leaf, storage):
    before = storage.commits

    await manager.revoke("th-1", actor="olga", reason="stolen")

    event = storage.events[-1]
    assert (event.type, event.subject, event.actor, event.reason) == ("certificate.revoked", "th-1", "olga", "stolen")
    assert storage.commits == before + 1


async def test_a_refused_certificate_is_named_with_its_reason(manager, leaf, clock):
    clock.jump(91 * DAY)

    with pytest.raises(NotAuthenticated) as refused:
        await manager.identify(leaf)

    assert (refused.value.code, refused.value.ids["reason"]) == ("certificate_invalid", "expired")


async def test_a_certificate_can_be_judged_as_pem(manager, leaf):
    pem = (await manager.inventory("th-1"))[0].pem.encode()

    report = await manager.validate(pem)

    assert (report.valid, report.device, report.state) == (True, "th-1", "active")


@pytest.mark.parametrize("content", [b"", b"-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n"])
async def test_judging_what_is_no_certificate_says_unreadable(manager, content):
    assert (await manager.validate(content)).refusal is Refusal.UNREADABLE


# --- the revocation list ------------------------------------------------------------------------------------------


async def test_the_list_names_what_was_revoked_and_is_signed_by_the_issuing_ca(manager, leaf, authority):
    await issue(manager)
    await manager.revoke(serial=(await manager.validate(leaf)).certificate)

    crl = x509.load_pem_x509_crl(await manager.export_crl())

    assert [entry.serial_number for entry in crl] == [x509.load_der_x509_certificate(leaf).serial_number]
    assert crl.is_signature_valid(authority.issuing.certificate.public_key())


async def test_its_number_rises(manager):
    numbers = [
        x509.load_pem_x509_crl(await manager.export_crl()).extensions.get_extension_for_class(x509.CRLNumber)
        for _ in range(3)
    ]

    assert [number.value.crl_number for number in numbers] == [2, 3, 4]


async def test_a_certificate_that_has_expired_leaves_the_list(manager, leaf, clock):
    await manager.revoke("th-1")

    clock.jump(91 * DAY)

    assert len(x509.load_pem_x509_crl(await manager.export_crl())) == 0


# --- device tokens ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["th-1", "a_b_c", "x" * 64, "0._-"])
async def test_a_device_token_names_its_device(manager, device):
    token = await manager.device_tokens.issue(device)

    assert token.startswith(f"fc_dev_{device}_")
    assert [(await manager.verify_token(token)).device for _ in range(2)] == [device, device]


async def test_a_token_of_one_device_cannot_be_made_anothers(manager):
    token = await manager.device_tokens.issue("th-1")
    await manager.verify_token(token)

    with pytest.raises(NotAuthenticated):
        await manager.verify_token(token.replace("th-1", "th-2"))


@pytest.mark.parametrize("token", ["", "fc_dev_", "fc_dev_th-1_", "fc_dev_th-1_" + "A" * 43, "fc_dev_th-1_" + "é" * 43])
async def test_a_wrong_device_token_is_refused(manager, token):
    await manager.device_tokens.issue("th-1")

    with pytest.raises(NotAuthenticated):
        await manager.verify_token(token)


async def test_a_device_token_expires(manager, clock):
    token = await manager.device_tokens.issue("th-1", ttl_s=60)
    await manager.verify_token(token)

    clock.jump(60_000)

    with pytest.raises(NotAuthenticated):
        await manager.verify_token(token)


async def test_revoking_a_device_revokes_its_tokens_known_or_not(manager):
    tokens = [await manager.device_tokens.issue("th-1") for _ in range(2)]
    await manager.verify_token(tokens[0])

    assert await manager.revoke("th-1") == 2

    for token in tokens:
        with pytest.raises(NotAuthenticated):
            await manager.verify_token(token)


async def test_one_token_can_be_revoked_alone(manager, storage):
    first, second = [await manager.device_tokens.issue("th-1") for _ in range(2)]
    await manager.verify_token(first)
    (name, *_) = [event.data["token"] for event in storage.events]

    await manager.revoke_token(name)

    assert (await manager.verify_token(second)).device == "th-1"
    with pytest.raises(NotAuthenticated):
        await manager.verify_token(first)


# --- commands -----------------------------------------------------------------------------------------------------


async def test_a_device_can_check_a_signed_command(manager):
    envelope = manager.sign_command({"device": "th-1", "id": "c1", "name": "reboot"})

    opened = verify(json.loads(json.dumps(envelope)), COMMAND_TYPE, [load_pem_public_key(manager.command_public_key())])

    assert json.loads(opened.payload) == {"device": "th-1", "id": "c1", "name": "reboot"}


# --- on disk ------------------------------------------------------------------------------------------------------


async def test_a_fleet_on_disk_keeps_its_authority_over_a_restart(tmp_path, storage, clock, registry):
    def opened():
        return SecurityManager.open(storage, clock, "acme", directory=registry, data=tmp_path, hosts=["localhost"])

    first = await opened()
    await registry.register("th-1", "sensor")
    leaf = await issue(first)

    second = await opened()

    assert (await second.identify(leaf))[0] == "th-1"
    assert second.command_public_key() == first.command_public_key()


async def test_an_exported_list_is_put_where_brokers_read_it(tmp_path, storage, clock, registry):
    manager = await SecurityManager.open(storage, clock, "acme", directory=registry, data=tmp_path)

    crl = await manager.export_crl()

    assert (tmp_path / "pki" / "crl.pem").read_bytes() == crl


async def test_a_fleet_in_memory_has_no_listeners_tls(storage, clock, registry):
    manager = await SecurityManager.open(storage, clock, "acme", directory=registry)

    assert manager.tls is None
    assert manager.authority.issue_device("th-1", new_key().public_key())
