"""Sessions: who loses the right while a session opens gets none, and what runs out ends the sessions it has opened."""

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificate

from fleetcore import IoTFleetManager
from fleetcore.errors import FleetError, NotAuthorised
from fleetcore.interfaces.protocol import EnrollRequest
from fleetcore.model.credential import AssertedCredential, CertificateCredential, TokenCredential
from fleetcore.model.device import Lifecycle
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.credentials import make_csr, make_key

DAY_MS = 86_400_000


@pytest.fixture
async def fleet():
    async with IoTFleetManager(clock=MovableClock()) as manager:
        yield await manager.open()


def request(device) -> bytes:
    return make_csr(device, make_key()[1])


async def enrolled(fleet, device="th-1") -> CertificateCredential:
    token = await fleet.security.create_enrollment_token(
        device=None if await fleet.devices.find(device) is None else device
    )
    return shown(await fleet.security.enroll(EnrollRequest(csr=request(device), token=token)))


def shown(reply) -> CertificateCredential:
    assert reply.status == 201
    return CertificateCredential(
        load_pem_x509_certificate(reply.body["certificate"].encode()).public_bytes(Encoding.DER)
    )


async def test_a_broker_does_not_vouch_for_a_revoked_device(fleet):
    await enrolled(fleet)
    by_broker = AssertedCredential("th-1", "broker")
    session = await fleet.plane.authenticate(by_broker, protocol="mqtt")

    await fleet.security.revoke("th-1", reason="stolen")

    assert session.ended == "device_revoked"
    with pytest.raises(NotAuthorised) as refused:
        await fleet.plane.authenticate(by_broker, protocol="mqtt")
    assert refused.value.code == "device_revoked"


@pytest.mark.parametrize("how", ["serial", "distrust"])
async def test_nor_for_one_whose_only_certificate_is_worth_nothing_any_more(fleet, how):
    await enrolled(fleet)
    by_broker = AssertedCredential("th-1", "broker")
    session = await fleet.plane.authenticate(by_broker, protocol="mqtt")
    (record,) = await fleet.security.inventory("th-1")

    if how == "serial":
        await fleet.security.revoke(serial=record.id, reason="stolen")
    else:
        await fleet.security.rotation.renew_issuing(actor="olga", reason="a leak")
        await fleet.security.rotation.distrust(record.issuer, force=True, actor="olga", reason="a leak")

    assert session.ended == "device_revoked"
    with pytest.raises(NotAuthorised):
        await fleet.plane.authenticate(by_broker, protocol="mqtt")


async def test_a_broker_vouches_again_for_a_device_that_was_let_in_again_and_for_one_that_never_had_a_certificate(
    fleet,
):
    await enrolled(fleet)
    await fleet.security.revoke("th-1", reason="repaired")
    await enrolled(fleet)
    await fleet.devices.register("th-2", "sensor")

    for device in ("th-1", "th-2"):
        session = await fleet.plane.authenticate(AssertedCredential(device, "broker"), protocol="mqtt")
        assert session.ended is None


@pytest.mark.parametrize("by", ["token", "certificate", "broker"])
async def test_who_is_revoked_while_a_session_opens_gets_none(fleet, monkeypatch, by):
    certificate = await enrolled(fleet)
    token = await fleet.security.issue_device_token("th-1")
    credential = {
        "token": TokenCredential(token),
        "certificate": certificate,
        "broker": AssertedCredential("th-1", "broker"),
    }[by]
    before = fleet.storage.series_of

    async def revoked_meanwhile(device):
        await fleet.security.revoke("th-1", reason="stolen")
        return await before(device)

    monkeypatch.setattr(fleet.storage, "series_of", revoked_meanwhile)

    with pytest.raises(FleetError):
        await fleet.plane.authenticate(credential, protocol="http")

    assert len(fleet.device_sessions) == 0


async def test_a_device_that_is_suspended_while_a_session_opens_is_suspended_in_it(fleet, monkeypatch):
    certificate = await enrolled(fleet)
    before = fleet.storage.series_of

    async def suspended_meanwhile(device):
        await fleet.devices.move("th-1", Lifecycle.SUSPENDED, actor="olga", reason="odd")
        return await before(device)

    monkeypatch.setattr(fleet.storage, "series_of", suspended_meanwhile)

    session = await fleet.plane.authenticate(certificate, protocol="http")

    assert session.state.blocked == "device_suspended"


async def test_a_session_ends_with_the_certificate_that_opened_it(fleet):
    session = await fleet.plane.authenticate(await enrolled(fleet), protocol="http")
    fleet.clock.jump(89 * DAY_MS)
    await fleet.clock.advance(61)
    assert session.ended is None

    fleet.clock.jump(2 * DAY_MS)
    await fleet.clock.advance(61)

    assert session.ended == "certificate_invalid"


async def test_a_session_of_a_superseded_certificate_ends(fleet):
    old = await fleet.plane.authenticate(await enrolled(fleet), protocol="http")
    renewed = shown(await fleet.security.renew("th-1", request("th-1"), current=old.credential_key))
    new = await fleet.plane.authenticate(renewed, protocol="http")

    await fleet.clock.advance(61)

    assert (old.ended, new.ended) == ("device_revoked", None)
