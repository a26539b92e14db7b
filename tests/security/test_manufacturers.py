"""Manufacturers' CAs: proven before they count, good for enrolling alone, and ended at once."""

import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fleetcore.errors import Conflict, NotAuthenticated, NotAuthorised, Refused
from fleetcore.fleet.security import SecurityManager
from fleetcore.interfaces.protocol import EnrollRequest
from fleetcore.model.credential import EnrollmentState

from .conftest import DAY, csr, der, leaf_of, new_key, spki


class Maker:
    """A manufacturer with a CA of its own."""

    def __init__(self, clock, name="Maker CA", days=3650):
        self.clock, self.key = clock, new_key()
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.ca = self.sign(self.name, self.key, ca=True, days=days)
        self.pem = self.ca.public_bytes(Encoding.PEM).decode()

    def sign(self, subject, key, *, ca=False, days=3650, since=0, extended=None):
        now = dt.datetime.fromtimestamp(self.clock.now_ms() / 1000, dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=5) + dt.timedelta(days=since))
            .not_valid_after(now + dt.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if ca:
            usage = dict.fromkeys(
                ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
                 "encipher_only", "decipher_only"), False,
            )  # fmt: skip
            builder = builder.add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True)
        if extended is not None:
            builder = builder.add_extension(extended, critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def device(self, name, key=None, **options):
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        return der(self.sign(subject, key or new_key(), **options))

    def proof(self, nonce):
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, nonce)])
        return self.sign(subject, new_key()).public_bytes(Encoding.PEM).decode()


@pytest.fixture
def maker(clock):
    return Maker(clock)


async def registered(manager, maker, name="maker", **options):
    proposed = await manager.manufacturers.propose(name, maker.pem, **options)
    return await manager.prove_manufacturer(name, maker.proof(proposed.nonce))


def ask(certificate, device="th-1", key=None):
    return EnrollRequest(csr=csr(device, key), certificate=certificate, source="192.0.2.7")


async def test_a_device_gets_our_certificate_by_the_one_it_was_made_with(manager, registry, maker):
    await registered(manager, maker, admits="at_once", device_type="meter", model="m-4", tags=["grid"])
    made = maker.device("th-1")

    reply = await manager.enroll(ask(made))

    assert (await manager.identify(der(leaf_of(reply))))[0] == "th-1"
    device = await registry.find("th-1")
    assert (device.type, device.model, device.tags) == ("meter", "m-4", ("grid",))
    assert (await manager.inventory("th-1"))[0].how == "manufacturer:maker"


async def test_what_it_was_made_with_is_no_identity_itself(manager, maker):
    await registered(manager, maker, admits="at_once")

    with pytest.raises(NotAuthenticated):
        await manager.identify(maker.device("th-1"))


async def test_by_default_a_device_is_registered_and_waits_for_an_operator(manager, registry, maker):
    await registered(manager, maker)
    made, key = maker.device("th-1"), new_key()

    waiting = await manager.enroll(ask(made, key=key))

    assert (waiting.status, waiting.body["code"]) == (202, "enrollment_pending")
    assert await registry.find("th-1") is not None
    assert [one.fingerprint for one in await manager.enrollments(EnrollmentState.PENDING)] == [spki(key)]
    await manager.approve("th-1", spki(key), actor="olga")
    assert (await manager.identify(der(leaf_of(await manager.enroll(ask(made, key=key))))))[0] == "th-1"


async def test_the_same_request_again_gets_the_same_certificate(manager, maker):
    await registered(manager, maker, admits="at_once")
    made, key = maker.device("th-1"), new_key()

    first = await manager.enroll(ask(made, key=key))

    assert leaf_of(await manager.enroll(ask(made, key=key))) == leaf_of(first)


async def test_a_device_with_a_good_certificate_of_ours_does_not_start_over(manager, maker):
    await registered(manager, maker, admits="at_once")
    made = maker.device("th-1")
    await manager.enroll(ask(made))

    with pytest.raises(Conflict):
        await manager.enroll(ask(made))


async def test_a_revoked_device_comes_back_by_its_makers_certificate_only_if_an_operator_says_so(manager, maker):
    await registered(manager, maker, admits="at_once")
    made, key = maker.device("th-1"), new_key()
    await manager.enroll(ask(made))
    await manager.revoke("th-1", reason="stolen")

    assert (await manager.enroll(ask(made, key=key))).status == 202

    await manager.approve("th-1", spki(key), actor="olga")
    assert leaf_of(await manager.enroll(ask(made, key=key)))


async def test_a_device_whose_certificate_ran_out_starts_over_by_its_makers(manager, maker, clock):
    await registered(manager, maker, admits="at_once")
    made = maker.device("th-1")
    await manager.enroll(ask(made))
    await clock.advance(100 * DAY / 1000)

    assert leaf_of(await manager.enroll(ask(made)))


async def test_a_maker_cannot_take_over_a_device_that_came_another_way(manager, registry, maker):
    await registered(manager, maker, admits="at_once")
    await registry.register("th-1", "sensor")
    await registry.register("th-2", "sensor", key_id=spki(new_key()))

    assert (await manager.enroll(ask(maker.device("th-1")))).status == 202
    with pytest.raises(NotAuthorised):
        await manager.enroll(ask(maker.device("th-2"), device="th-2"))


async def test_a_device_registered_with_the_key_it_was_made_with_gets_its_certificate_at_once(manager, registry, maker):
    await registered(manager, maker, admits="at_once")
    key = new_key()
    await registry.register("th-1", "sensor", key_id=spki(key))

    assert leaf_of(await manager.enroll(ask(maker.device("th-1", key))))


async def test_our_own_ca_is_no_manufacturers(manager, authority):
    for own in (*authority.roots, *authority.intermediates):
        with pytest.raises(Refused):
            await manager.manufacturers.propose("us", own.public_bytes(Encoding.PEM).decode())


async def test_what_a_maker_gave_a_ca_or_a_server_opens_nothing(manager, registry, maker):
    await registered(manager, maker, admits="at_once")
    server = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])

    for options in ({"ca": True}, {"extended": server}):
        with pytest.raises(NotAuthorised):
            await manager.enroll(ask(maker.device("th-1", **options)))

    assert await registry.find("th-1") is None


async def test_a_ca_that_nobody_has_proven_opens_nothing(manager, registry, maker):
    await manager.manufacturers.propose("maker", maker.pem, admits="at_once")

    with pytest.raises(NotAuthorised) as refused:
        await manager.enroll(ask(maker.device("th-1")))

    assert (refused.value.code, await registry.find("th-1")) == ("certificate_invalid", None)


async def test_who_cannot_sign_with_the_ca_cannot_prove_it(manager, maker, clock):
    proposed = await manager.manufacturers.propose("maker", maker.pem)

    for proof in (Maker(clock).proof(proposed.nonce), maker.proof("another nonce")):
        with pytest.raises(Refused):
            await manager.prove_manufacturer("maker", proof)

    assert not (await manager.manufacturers.records.need("maker")).usable


async def test_a_foreign_ca_of_the_same_name_opens_nothing(manager, maker, clock):
    await registered(manager, maker, admits="at_once")

    with pytest.raises(NotAuthorised):
        await manager.enroll(ask(Maker(clock).device("th-1")))


async def test_a_disabled_ca_opens_nothing_any_more(manager, maker):
    await registered(manager, maker, admits="at_once")

    await manager.manufacturers.disable("maker", actor="olga", reason="their key leaked")

    with pytest.raises(NotAuthorised):
        await manager.enroll(ask(maker.device("th-1")))


async def test_a_device_cannot_ask_for_another_id_than_it_was_made_with(manager, maker):
    await registered(manager, maker, admits="at_once")

    with pytest.raises(NotAuthorised) as refused:
        await manager.enroll(ask(maker.device("th-1"), device="th-2"))

    assert refused.value.code == "not_your_device"


async def test_a_certificate_past_its_dates_or_with_a_weak_key_or_without_an_id_opens_nothing(manager, maker):
    await registered(manager, maker, admits="at_once")
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)

    for made in (
        maker.device("th-1", days=-1, since=-2),
        maker.device("th-1", since=1),
        maker.device("th-1", weak),
        maker.device("a/b"),
    ):
        with pytest.raises((NotAuthorised, NotAuthenticated)) as refused:
            await manager.enroll(ask(made))
        assert refused.value.code == "certificate_invalid"


async def test_what_is_no_ca_is_not_taken_in(manager, maker, clock):
    leaf = x509.load_der_x509_certificate(maker.device("th-1")).public_bytes(Encoding.PEM).decode()
    old = Maker(clock, days=1)
    clock.jump(2 * DAY)

    for pem in ("", "no PEM", leaf, old.pem, "x" * 20_000):
        with pytest.raises(Refused):
            await manager.manufacturers.propose("maker", pem)


async def test_a_ca_is_registered_once(manager, maker):
    await manager.manufacturers.propose("maker", maker.pem)

    for name in ("maker", "other"):
        with pytest.raises(Conflict):
            await manager.manufacturers.propose(name, maker.pem)


async def test_an_expired_certificate_of_ours_is_renewed_within_the_grace_and_not_after(
    storage, clock, authority, registry
):
    manager = SecurityManager(storage, clock, authority, registry, grace=dt.timedelta(days=10))
    first = der(
        leaf_of(await manager.enroll(EnrollRequest(csr=csr("th-1"), token=await manager.enrollment_tokens.create())))
    )
    clock.jump(95 * DAY)
    with pytest.raises(NotAuthenticated):
        await manager.identify(first)

    renewed = await manager.enroll(ask(first))

    assert (await manager.identify(der(leaf_of(renewed))))[0] == "th-1"
    with pytest.raises(NotAuthorised) as refused:
        await manager.enroll(ask(der(leaf_of(renewed)), device="th-2"))
    assert refused.value.code == "not_your_device"
    clock.jump(200 * DAY)
    with pytest.raises(NotAuthenticated):
        await manager.enroll(ask(der(leaf_of(renewed))))
