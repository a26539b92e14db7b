"""Sessions: who loses the right while a session opens gets none, and what runs out ends the sessions it has opened."""

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificate

from fleetcore import IoTFleetManager
from fleetcore.errors import FleetError, NotAuthenticated, NotAuthorised
from fleetcore.interfaces.protocol import EnrollRequest
from fleetcore.model.credential import AssertedCredential, CertificateCredential, KeyCredential, TokenCredential
from fleetcore.model.device import Lifecycle
from fleetcore.testing.clock import MovableClock
from fleetcore.wire.identity import make_csr, make_key
from fleetcore.wire.shared_keys import shared_key

DAY_MS = 86_400_000


@pytest.fixture
async def fleet():
    async with IoTFleetManager(clock=MovableClock()) as manager:
        yield await manager.open()


def request(device) -> bytes:
    return make_csr(device, make_key()[1])


async def enrolled(fleet, device="th-1") -> CertificateCredential:
    token = await fleet.security.enrollment_tokens.create(
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
    token = await fleet.security.device_tokens.issue("th-1")
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


def by_token(token) -> TokenCredential:
    return TokenCredential(token)


def by_key(token) -> KeyCredential:
    return KeyCredential(shared_key("th-1", token).token)


@pytest.mark.parametrize("shown_as", [by_token, by_key])
async def test_a_session_ends_with_the_token_that_opened_it(fleet, shown_as):
    await fleet.devices.register("th-1", type="sensor")
    token = await fleet.security.device_tokens.issue("th-1", ttl_s=60)
    for_ever = await fleet.security.device_tokens.issue("th-1")
    session, other = [await fleet.plane.authenticate(shown_as(held), protocol="coap") for held in (token, for_ever)]

    fleet.clock.jump(60_001)
    fleet.device_sessions.end_stale()

    assert (session.ended, other.ended) == ("not_authenticated", None)
    with pytest.raises(NotAuthenticated):
        await fleet.plane.authenticate(shown_as(token), protocol="coap")


async def test_a_shared_key_is_what_the_device_makes_of_its_token_while_it_is_good(fleet):
    await fleet.devices.register("th-1", type="sensor")
    held = shared_key("th-1", await fleet.security.device_tokens.issue("th-1"))
    assert await fleet.plane.shared_key(held.token, protocol="coap") == held.key
    session = await fleet.plane.authenticate(KeyCredential(held.token), protocol="coap")
    assert session.identity == "th-1"

    await fleet.security.revoke("th-1", reason="stolen")

    assert session.ended == "device_revoked"
    assert await fleet.plane.shared_key(held.token, protocol="coap") is None
    with pytest.raises(NotAuthenticated):
        await fleet.plane.authenticate(KeyCredential(held.token), protocol="coap")


@pytest.mark.parametrize(
    "named",
    ["", "th-1", "th-1:", "th-1:0123", "th-1:0123456789abcde\0", "th-1:0123456789ABCDEF", "\0", "x" * 1000, "é:0"],
)
async def test_an_id_that_no_token_can_have_is_refused_before_the_store_is_asked(fleet, monkeypatch, named):
    asked = []
    monkeypatch.setattr(fleet.security.device_tokens, "_stored", asked.append)

    assert await fleet.plane.shared_key(named, protocol="coap") is None
    assert asked == []


async def test_a_peer_that_does_not_have_the_key_it_names_is_written_down_once_for_all_its_tries(fleet):
    for _ in range(3):
        fleet.plane.key_refused("th-1:0123456789abcdef", protocol="coap", peer="192.0.2.1:5")
    await fleet.denials.flush()
    await fleet.wait_idle()
    (row,) = [row for row in await fleet.audit.list(limit=100) if row.action == "access.denied"]

    assert (row.actor, row.object, row.reason) == ("unknown", "session", "not_authenticated: not the key of the token")


async def test_what_operators_see_of_a_token_says_nothing_of_its_key(fleet):
    await fleet.devices.register("th-1", type="sensor")
    held = shared_key("th-1", await fleet.security.device_tokens.issue("th-1"))
    assert len(held.key) == 32
    seen = held.token.partition(":")[2]
    assert seen not in held.key.decode()
    assert seen + held.key.decode() not in repr(held)
