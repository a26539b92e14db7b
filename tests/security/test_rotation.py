"""One root follows another: what each phase trusts and shows, that it can be taken back, and that no crash divides it."""

import os
import shutil
import ssl
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from fleetcore import files
from fleetcore.errors import ConfigError, Conflict, IllegalTransition, NotAuthenticated, NotFound, Refused
from fleetcore.fleet.registry import Registry
from fleetcore.fleet.security import SecurityManager
from fleetcore.fleet.security import folder as folder_module
from fleetcore.fleet.security.authority import pem
from fleetcore.fleet.security.rotation import STEPS
from fleetcore.interfaces.protocol import EnrollRequest
from fleetcore.model.credential import Phase
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.wire.tls import client_context

from .conftest import DAY, FLEET, RecordStore, csr, der, leaf_of, new_key
from .test_tls import handshake

WHO = {"actor": "ann"}


class Fleet:
    """A security manager on a folder, which can be opened again as after a kill."""

    def __init__(self, data, clock, passphrase=None):
        self.data, self.clock, self.storage, self.passphrase = data, clock, RecordStore(), passphrase
        self.registry = Registry(self.storage, clock)

    async def open(self):
        self.security = await SecurityManager.open(
            self.storage, self.clock, FLEET, directory=self.registry, data=self.data, passphrase=self.passphrase
        )
        return self

    @property
    def rotation(self):
        return self.security.rotation

    @property
    def pki(self):
        return self.data / "pki"

    async def device(self, name, key=None):
        """Enrols a device: its certificate."""
        if await self.registry.find(name) is None:
            await self.registry.register(name, "sensor")
        return x509.load_pem_x509_certificate((await self.security.issue(csr(name, key))).pem.encode())

    async def renewed(self, name):
        """A device's certificate after a renewal, with which it has connected."""
        leaf = leaf_of(await self.security.renew(name, csr(name)))
        await self.security.identify(der(leaf))
        return leaf


@pytest.fixture
async def fleet(tmp_path, clock):
    opened = await Fleet(tmp_path / "data", clock).open()
    yield opened
    await opened.security.close()


async def refusal(fleet, certificate):
    try:
        await fleet.security.identify(der(certificate))
    except (NotAuthenticated, Refused) as error:
        return str(error.ids["reason"])
    return None


# --- what is trusted and shown ---------------------------------------------------------------------------------------


def openssl(*arguments):
    if shutil.which("openssl") is None:
        if os.environ.get("FLEETCORE_REQUIRE") == "all":
            pytest.fail("openssl is missing")
        pytest.skip("openssl is missing")
    words = ["openssl", *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    return done.stdout + done.stderr


def verified_by(fleet, root, folder):
    """Whether ``openssl verify`` believes the server's file, trusting one root alone, with what is sent beside it."""
    trusted, leaf, sent = folder / "trusted.pem", folder / "leaf.pem", folder / "sent.pem"
    trusted.write_bytes(pem([root]))
    first, *others = x509.load_pem_x509_certificates((fleet.pki / "server.pem").read_bytes())
    leaf.write_bytes(pem([first]))
    sent.write_bytes(pem(others))
    # Without -partial_chain, and with nothing from the system's own store.
    words = ("verify", "-x509_strict", "-no-CApath", "-no-CAstore", "-purpose", "sslserver", "-CAfile", trusted)
    answer = openssl(*words, *(("-untrusted", sent) if others else ()), leaf)
    return answer == f"{leaf}: OK\n"


def greeted_by(context, root):
    """Whether a TLS client that trusts one root alone is content with the listener."""
    try:
        handshake(context, client_context(ca=pem([root])))
    except ssl.SSLCertVerificationError:
        return False
    return True


@pytest.mark.peer("openssl")
async def test_at_every_phase_the_server_is_verified_by_whoever_may_only_trust_the_root_of_before(fleet, tmp_path):
    """The table of the whole change: who verifies the server, by openssl and in a handshake with an open listener."""
    (a,) = fleet.security.authority.roots
    listener = fleet.security.tls.server()

    async def seen(step):
        if step:
            await step(**WHO)
        roots = (a, b) if (b := fleet.security.authority.roots[-1]) is not a else (a,)
        by_openssl = [verified_by(fleet, root, tmp_path) for root in roots]
        by_handshake = [greeted_by(listener, root) for root in roots]
        assert by_openssl == by_handshake
        return by_openssl

    assert await seen(None) == [True]
    assert await seen(fleet.rotation.begin) == [True, False]
    assert await seen(fleet.rotation.issue) == [True, True]
    assert await seen(fleet.rotation.back) == [True, False]
    assert await seen(fleet.rotation.issue) == [True, True]
    await fleet.rotation.retire(**WHO)
    (b,) = fleet.security.authority.roots
    assert (verified_by(fleet, a, tmp_path), verified_by(fleet, b, tmp_path)) == (False, True)
    assert (greeted_by(listener, a), greeted_by(listener, b)) == (False, True)


async def test_devices_of_both_roots_get_in_while_both_are_trusted(fleet):
    old = await fleet.device("old")
    await fleet.rotation.begin(**WHO)
    await fleet.rotation.issue(**WHO)

    new = await fleet.device("new")

    assert new.issuer != old.issuer
    assert [await refusal(fleet, one) for one in (old, new)] == [None, None]
    await fleet.rotation.back(**WHO)
    assert [await refusal(fleet, one) for one in (old, new)] == [None, None]


async def test_an_open_listener_believes_the_new_cas_devices_at_once(fleet):
    listener = fleet.security.tls.server()
    await fleet.rotation.begin(**WHO)
    await fleet.rotation.issue(**WHO)
    key = new_key()
    leaf = await fleet.device("th-1", key)

    identity = {"certificate": leaf.public_bytes(Encoding.PEM), "key": _pem(key)}
    _, far = handshake(listener, client_context(ca=fleet.security.authority.ca_pem(), **identity))

    assert far.getpeercert(True) == der(leaf)


def _pem(key):
    from cryptography.hazmat.primitives.serialization import NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


async def test_a_retired_root_is_refused_at_once_though_an_open_listener_still_lets_its_devices_through(fleet):
    listener = fleet.security.tls.server()
    key = new_key()
    old = await fleet.device("th-1", key)
    assert await refusal(fleet, old) is None  # remembered from now on
    ended = []
    fleet.security.on_revoked(lambda *what: ended.append(what))
    await fleet.rotation.begin(**WHO)
    await fleet.rotation.issue(**WHO)

    done = await fleet.rotation.retire(force=True, **WHO)

    assert done.locked_out == ("th-1",)
    assert await refusal(fleet, old) == "untrusted"
    (record,) = await fleet.security.inventory("th-1")
    assert ended == [("th-1", "device_revoked", record.id)]
    assert fleet.security.is_refused(record.id)
    identity = {"certificate": old.public_bytes(Encoding.PEM), "key": _pem(key)}
    handshake(listener, client_context(ca=fleet.security.authority.ca_pem(), **identity))
    with pytest.raises(ssl.SSLError):
        handshake(fleet.security.tls.server(), client_context(ca=fleet.security.authority.ca_pem(), **identity))


async def test_a_renewal_with_the_same_key_comes_from_the_ca_that_signs_now(fleet):
    key = new_key()
    old = await fleet.device("th-1", key)
    assert leaf_of(await fleet.security.renew("th-1", csr("th-1", key))) == old
    await fleet.rotation.begin(**WHO)
    await fleet.rotation.issue(**WHO)

    new = leaf_of(await fleet.security.renew("th-1", csr("th-1", key)))

    assert new.issuer == fleet.security.authority.issuing.certificate.subject != old.issuer


# --- the steps -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", Phase)
async def test_a_step_out_of_its_phase_is_refused_and_changes_nothing(fleet, phase):
    for step in {Phase.SETTLED: (), Phase.ANNOUNCED: ("begin",), Phase.ISSUING: ("begin", "issue")}[phase]:
        await getattr(fleet.rotation, step)(**WHO)
    before = fleet.security.authority.trust

    for step in STEPS:
        if phase not in STEPS[step]:
            with pytest.raises(IllegalTransition):
                await getattr(fleet.rotation, step)(**WHO)
    assert fleet.security.authority.trust is before
    assert fleet.rotation.phase is phase


async def test_back_from_every_phase_leaves_what_was_there(fleet):
    before = fleet.security.authority.trust

    await fleet.rotation.begin(**WHO)
    await fleet.rotation.back(**WHO)
    once = fleet.security.authority.trust
    await fleet.rotation.begin(**WHO)
    await fleet.rotation.issue(**WHO)
    await fleet.rotation.back(**WHO)
    await fleet.rotation.back(**WHO)
    twice = fleet.security.authority.trust

    for after in (once, twice):
        assert (after.roots, after.issuing, after.cross, after.signing) == (
            before.roots,
            before.issuing,
            (),
            before.signing,
        )
    # A new version: whoever took the new root is to forget it.
    assert [before.version, once.version, twice.version] == [1, 3, 5]
    names = {path.name for path in fleet.pki.iterdir()}
    assert not any("-2" in name or "-3" in name for name in names)


async def test_giving_up_the_new_root_is_refused_while_a_device_has_its_certificate_alone(fleet):
    await fleet.rotation.begin(**WHO)
    await fleet.rotation.issue(**WHO)
    new = await fleet.device("new")
    await fleet.rotation.back(**WHO)

    with pytest.raises(Conflict, match="1 devices have no certificate") as refused:
        await fleet.rotation.back(**WHO)

    assert (refused.value.code, refused.value.ids["devices"]) == ("devices_would_be_locked_out", ["new"])
    done = await fleet.rotation.back(force=True, **WHO)
    assert done.locked_out == ("new",)
    assert await refusal(fleet, new) == "untrusted"


async def test_retiring_waits_for_confirmations_and_for_the_last_device_on_the_old_root(fleet):
    said = set()

    class Told:
        async def deliver(self, version, sha256, ca):
            self.last = version, sha256, ca

        async def confirmed(self, sha256):
            for device, digest in said:
                if digest == sha256:
                    yield device

    told = fleet.rotation.delivery = Told()
    for name in ("a", "b"):
        await fleet.device(name)
    await fleet.rotation.begin(**WHO)
    await fleet.rotation.issue(**WHO)
    version, digest, ca = told.last
    assert (version, ca) == (2, fleet.security.authority.ca_pem().decode())

    with pytest.raises(Conflict, match="0 of 2 devices have confirmed"):
        await fleet.rotation.retire(threshold=0.5, **WHO)
    said |= {("a", digest), ("b", "of another bundle")}
    standing = await fleet.rotation.status()
    assert (standing.devices, standing.confirmed, standing.share, standing.waiting) == (2, 1, 0.5, ("b",))
    with pytest.raises(Conflict, match="2 devices have no certificate of another CA") as hang:
        await fleet.rotation.retire(threshold=0.5, **WHO)
    assert hang.value.ids["devices"] == ["a", "b"]
    await fleet.renewed("a")
    assert (await fleet.rotation.status()).locked_out == ("b",)
    await fleet.renewed("b")

    done = await fleet.rotation.retire(threshold=0.5, **WHO)

    assert (done.phase, done.locked_out) == (Phase.SETTLED, ())
    assert told.last[0] == 3


async def test_a_second_rotation_follows_the_first(fleet):
    for _ in range(2):
        await fleet.rotation.begin(**WHO)
        await fleet.rotation.issue(**WHO)
        await fleet.rotation.retire(**WHO)

    again = await Fleet(fleet.data, fleet.clock).open()
    (root,) = again.security.authority.roots
    assert root.subject.rfc4514_string() == "CN=fleetcore root acme 3"
    assert {path.name for path in fleet.pki.glob("root*")} == {"root-3.pem", "root-3.key"}


async def test_each_step_is_written_into_the_log_once(fleet):
    await fleet.rotation.begin(reason="the root is old", **WHO)
    await fleet.rotation.issue(**WHO)
    for _ in range(2):
        await fleet.security.settle_cas()

    told = [(one.type, one.actor, one.reason) for one in fleet.storage.events if one.subject == "ca"]
    assert told == [("ca.announced", "ann", "the root is old"), ("ca.issuing", "ann", "")]


async def test_it_works_in_memory(manager):
    await manager.rotation.begin(**WHO)
    await manager.rotation.issue(**WHO)
    await manager.rotation.retire(**WHO)

    assert [one.subject.rfc4514_string() for one in manager.authority.roots] == ["CN=fleetcore root acme 2"]


# --- a root that is kept offline -------------------------------------------------------------------------------------


async def test_a_root_key_goes_offline_whole_and_is_asked_for_by_what_needs_it(fleet, tmp_path):
    file = tmp_path / "root.key"
    content = (fleet.pki / "root.key").read_bytes()

    await fleet.rotation.take_offline(file, passphrase="horse", actor="ann", reason="")

    assert (file.stat().st_mode & 0o777, (fleet.pki / "root.key").exists()) == (0o600, False)
    assert load_pem_private_key(file.read_bytes(), b"horse").private_numbers() == (
        load_pem_private_key(content, None).private_numbers()
    )
    for step in (fleet.rotation.begin, fleet.rotation.renew_issuing):
        with pytest.raises(Conflict, match="offline") as refused:
            await step(**WHO)
        assert refused.value.code == "root_offline"
    with pytest.raises(NotFound, match="offline already"):
        await fleet.rotation.take_offline(tmp_path / "other", actor="ann", reason="")
    # Nothing else needs it.
    await fleet.device("th-1")
    again = await Fleet(fleet.data, fleet.clock).open()
    again.rotation.lend(file.read_text(), "horse")
    await again.rotation.begin(**WHO)
    await again.rotation.issue(**WHO)
    assert not (fleet.pki / "root.key").exists(), "the old root's key is not kept"
    await again.rotation.take_offline(tmp_path / "new.key", actor="ann", reason="")
    await again.rotation.retire(**WHO)
    assert list(fleet.pki.glob("root*")) == [fleet.pki / "root-2.pem"]


async def test_a_lent_key_is_good_for_one_step_and_for_ten_minutes(fleet, tmp_path, clock):
    await fleet.rotation.take_offline(tmp_path / "k", actor="ann", reason="")
    key = (tmp_path / "k").read_text()
    fleet.rotation.lend(key)
    await fleet.rotation.renew_issuing(**WHO)
    with pytest.raises(Conflict, match="offline"):
        await fleet.rotation.renew_issuing(**WHO)
    fleet.rotation.lend(key)
    await clock.advance(601)
    with pytest.raises(Conflict, match="offline"):
        await fleet.rotation.renew_issuing(**WHO)


async def test_the_key_of_another_root_is_refused(fleet):
    with pytest.raises(Refused, match="not that of a root"):
        fleet.rotation.lend(_pem(new_key()).decode())
    with pytest.raises(ConfigError):
        fleet.rotation.lend("no key")


async def test_a_key_is_never_written_over_a_file(fleet, tmp_path):
    (tmp_path / "there").write_text("mine")

    with pytest.raises(Conflict, match="exists"):
        await fleet.rotation.take_offline(tmp_path / "there", actor="ann", reason="")

    assert (tmp_path / "there").read_text() == "mine"
    assert fleet.security.authority.root_key is not None


async def test_with_the_keys_of_both_roots_here_one_is_named(fleet, tmp_path):
    await fleet.rotation.begin(**WHO)
    with pytest.raises(Refused, match="roots 1, 2"):
        await fleet.rotation.take_offline(tmp_path / "k", actor="ann", reason="")

    root = await fleet.rotation.take_offline(tmp_path / "k", number=1, actor="ann", reason="")

    assert root.number == 1
    assert not (fleet.pki / "root.key").exists()


async def test_new_keys_are_locked_by_the_folders_passphrase(tmp_path, clock):
    fleet = await Fleet(tmp_path / "data", clock, passphrase="horse").open()
    await fleet.rotation.begin(**WHO)

    assert {key.name for key in fleet.pki.glob("*-2.key") if b"ENCRYPTED" in key.read_bytes()} == {
        "root-2.key",
        "issuing-2.key",
    }
    await fleet.security.close()
    again = await Fleet(fleet.data, clock, passphrase="horse").open()
    assert again.rotation.phase is Phase.ANNOUNCED
    await again.rotation.take_offline(tmp_path / "k", number=2, actor="ann", reason="")
    assert b"ENCRYPTED" in (tmp_path / "k").read_bytes()
    await again.security.close()


# --- an issuing CA by itself -----------------------------------------------------------------------------------------


async def test_a_new_issuing_ca_signs_below_the_same_root_and_the_old_one_is_trusted_on(fleet, clock):
    old = await fleet.device("old")
    clock.jump(365 * DAY)
    before = await fleet.device("before")

    await fleet.rotation.renew_issuing(**WHO)

    new = await fleet.device("new")
    assert len(fleet.security.authority.roots) == 1
    assert [await refusal(fleet, one) for one in (old, before, new)] == ["expired", None, None]
    ends = fleet.security.authority.issuing.certificate.not_valid_after_utc
    assert (ends - new.not_valid_after_utc).days > 600


async def test_a_lost_issuing_ca_is_distrusted_and_its_devices_named(fleet):
    old, both = await fleet.device("old"), await fleet.device("both")
    lost = fleet.security.authority.issuer
    with pytest.raises(Conflict, match="signs now"):
        await fleet.rotation.distrust(lost, **WHO)
    await fleet.rotation.renew_issuing(**WHO)
    new = await fleet.renewed("both")
    with pytest.raises(Conflict, match="1 devices"):
        await fleet.rotation.distrust(lost, **WHO)

    done = await fleet.rotation.distrust(lost, force=True, **WHO)

    assert done.locked_out == ("old",)
    assert [await refusal(fleet, one) for one in (old, both, new)] == ["untrusted", "untrusted", None]
    with pytest.raises(NotFound):
        await fleet.rotation.distrust(lost, **WHO)
    # It comes back with a token, as if it were new.
    token = await fleet.security.enrollment_tokens.create(device="old")
    again = leaf_of(await fleet.security.enroll(EnrollRequest(csr=csr("old"), token=token)))
    assert await refusal(fleet, again) is None


# --- revocation lists ------------------------------------------------------------------------------------------------


def lists(fleet):
    text = fleet.security.folder.crl.read_bytes()
    end = b"-----END X509 CRL-----\n"
    return [x509.load_pem_x509_crl(one + end) for one in text.split(end) if one.strip()]


async def test_a_former_cas_certificates_can_be_revoked_and_stand_in_its_list(fleet):
    left, gone = await fleet.device("left"), await fleet.device("gone")
    await fleet.device("other")
    await fleet.rotation.begin(**WHO)
    await fleet.rotation.issue(**WHO)
    # By its serial alone too, though another CA signs by now.
    assert await fleet.security.revoke(serial=format(gone.serial_number, "x")) == 1
    await fleet.rotation.retire(force=True, **WHO)

    assert await fleet.security.revoke(device="left") == 1

    await fleet.security.export_crl()
    new, old = lists(fleet)
    assert new.issuer == fleet.security.authority.issuing.certificate.subject
    assert old.issuer == left.issuer
    assert {one.serial_number for one in old} == {left.serial_number, gone.serial_number}
    assert list(new) == []
    (record,) = await fleet.security.inventory("left")
    assert fleet.security.is_revoked(record.issuer, record.serial)


@pytest.mark.peer("openssl")
async def test_openssl_checks_devices_of_both_cas_against_the_one_file_of_lists(fleet, tmp_path):
    olds = [await fleet.device(name) for name in ("a", "b")]
    await fleet.rotation.begin(**WHO)
    await fleet.rotation.issue(**WHO)
    news = [await fleet.device(name) for name in ("c", "d")]
    for device in ("b", "d"):
        await fleet.security.revoke(device=device)
    await fleet.security.export_crl()

    answers = []
    for certificate in (*olds, *news):
        leaf = tmp_path / "leaf.pem"
        leaf.write_bytes(certificate.public_bytes(Encoding.PEM))
        found = openssl(
            "verify", "-crl_check", "-CRLfile", fleet.pki / "crl.pem", "-CAfile", fleet.pki / "ca.pem", leaf
        )
        answers.append("revoked" if "certificate revoked" in found else found.rpartition(": ")[2].strip())

    assert answers == ["OK", "revoked", "OK", "revoked"]


# --- crashes ---------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Nothing after it runs: not an Exception, so that no handler takes it for a failure and goes on."""


class Axe:
    """Ends the process, as it were, before the n-th change of the disk or of the store."""

    def __init__(self, monkeypatch):
        self.left = None
        for where, name in ((files, "replace"), (folder_module, "_sync_folder")):
            monkeypatch.setattr(where, name, self._around(getattr(where, name)))
        monkeypatch.setattr("pathlib.Path.unlink", self._around(type(folder_module.Path()).unlink))

    def _around(self, work):
        def done(*args, **options):
            self.strike()
            return work(*args, **options)

        return done

    def strike(self):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Killed


SETTLING = {
    "begin": ((), Phase.SETTLED, Phase.ANNOUNCED),
    "issue": (("begin",), Phase.ANNOUNCED, Phase.ISSUING),
    "back": (("begin", "issue"), Phase.ISSUING, Phase.ANNOUNCED),
    "back twice": (("begin", "issue", "back"), Phase.ANNOUNCED, Phase.SETTLED),
    "retire": (("begin", "issue"), Phase.ISSUING, Phase.SETTLED),
    "renew_issuing": ((), Phase.SETTLED, Phase.SETTLED),
}


@pytest.mark.parametrize("case", SETTLING)
async def test_a_kill_at_any_point_of_a_step_leaves_one_phase_or_the_other_and_all_that_belongs_to_it(
    tmp_path, clock, monkeypatch, case
):
    prepared, before, after = SETTLING[case]
    step = case.split()[0]
    ready = await Fleet(tmp_path / "ready", clock).open()
    for earlier in prepared:
        await getattr(ready.rotation, earlier)(**WHO)
    await ready.security.close()
    axe = Axe(monkeypatch)
    seen = []

    for number in range(100):
        folder = shutil.copytree(tmp_path / "ready", tmp_path / f"n{number}")
        fleet = Fleet(folder, clock)
        fleet.storage.records, fleet.storage.versions = dict(ready.storage.records), dict(ready.storage.versions)
        fleet.storage.events = []

        async def killed(_change):
            axe.strike()

        fleet.storage.before_commit = killed
        await fleet.open()
        await fleet.security.close()
        # The revocation list is written beside the step, at its own time: it would move the moment of each kill.
        monkeypatch.setattr(fleet.security, "_list", lambda: None)
        axe.left = number
        try:
            await getattr(fleet.rotation, step)(**WHO)
        except Killed:
            whole = False
        else:
            whole = True
        axe.left = None
        await fleet.security.close()

        again = Fleet(folder, clock)
        again.storage = fleet.storage
        again.registry = Registry(again.storage, clock)
        await again.open()
        await again.security.close()
        phase = again.rotation.phase
        signed = len(again.security.authority.trust.issuing) + again.security.authority.trust.last
        seen.append((phase, signed))
        consistent(again)
        told = [one.type for one in again.storage.events if one.subject == "ca"]
        changed = phase is after if before is not after else signed > 2
        assert len(told) == int(changed), (number, phase, told)
        if whole:
            break
        shutil.rmtree(folder)
    else:
        raise AssertionError("it never got to its end")

    assert seen[0][0] is before
    assert seen[-1][0] is after
    # There is one moment at which it changes, and no way back from it.
    assert seen == sorted(seen, key=seen.index)
    assert len(set(seen)) == 2


def consistent(fleet):
    """What lies in the folder says one thing."""
    authority = fleet.security.authority
    assert (fleet.pki / "ca.pem").read_bytes() == authority.ca_pem()
    for name in ("server", "service"):
        leaf, *sent = x509.load_pem_x509_certificates((fleet.pki / f"{name}.pem").read_bytes())
        leaf.verify_directly_issued_by(authority.issuing.certificate)
        assert pem(sent) == authority.presented_pem()
        key = load_pem_private_key((fleet.pki / f"{name}.key").read_bytes(), None)
        assert key.public_key() == leaf.public_key()
    key = new_key()
    leaf = authority.issue_device("probe", key.public_key())
    assert not isinstance(fleet.security._verifier.check(der(leaf)), str)


async def test_a_claim_certificate_of_the_old_root_is_not_made_worthless_unsaid(fleet):
    await fleet.security.claims.create("spring", quota=5)
    await fleet.security.claims.create("spent", quota=5)
    await fleet.security.disable_claim("spent")
    await fleet.rotation.begin(**WHO)
    await fleet.rotation.issue(**WHO)
    await fleet.security.claims.create("summer", quota=5)
    assert (await fleet.rotation.status()).claims == ("spring",)

    with pytest.raises(Conflict, match="1 batches would be worthless: spring") as refused:
        await fleet.rotation.retire(**WHO)

    assert refused.value.code == "devices_would_be_locked_out"
    done = await fleet.rotation.retire(force=True, **WHO)
    assert (done.locked_out, done.claims) == ((), ("spring",))
