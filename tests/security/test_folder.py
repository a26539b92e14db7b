"""The PKI folder: what is in it, who can read it, and when it is refused."""

import errno
import os
import shutil
import stat
import subprocess

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from fleetcore.errors import ConfigError, Conflict, NotFound, Refused
from fleetcore.fleet.security.folder import PkiFolder
from fleetcore.testing.faults import failing_sync
from fleetcore.testing.patience import PATIENCE_S

from .conftest import FLEET, new_key


@pytest.fixture
def folder(tmp_path, clock) -> PkiFolder:
    return PkiFolder.create(tmp_path / "data" / "pki", FLEET, ["localhost", "127.0.0.1"], clock)


def test_nobody_else_can_read_anything_in_it(folder):
    old = os.umask(0)
    os.umask(old)

    modes = {place.name: stat.S_IMODE(place.stat().st_mode) for place in [folder.path, *folder.path.iterdir()]}

    assert modes.pop("pki") == 0o700
    assert set(modes.values()) == {0o600}
    assert set(modes) == {
        *("root.pem", "root.key", "issuing.pem", "issuing.key", "server.pem", "server.key"),
        *("service.pem", "service.key", "command.key", "command.pub", "ca.pem", "crl.pem"),
    }


def test_what_was_created_can_be_loaded(folder, clock):
    again = PkiFolder.load(folder.path, FLEET, clock)

    assert again.authority.ca_pem() == folder.authority.ca_pem()
    assert again.command_key.public_key() == folder.command_key.public_key()


def test_it_is_never_overwritten(folder, clock):
    before = (folder.path / "root.key").read_bytes()

    with pytest.raises(Conflict):
        PkiFolder.create(folder.path, FLEET, ["localhost"], clock)

    assert (folder.path / "root.key").read_bytes() == before


def test_an_impossible_host_leaves_nothing_behind(tmp_path, clock):
    with pytest.raises(Refused):
        PkiFolder.create(tmp_path / "pki", FLEET, ["no such host!"], clock)

    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_nothing_behind(tmp_path, clock):
    with failing_sync(errno.ENOSPC), pytest.raises(OSError, match="No space"):
        PkiFolder.create(tmp_path / "pki", FLEET, ["localhost"], clock)

    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_says_what_to_run(tmp_path, clock):
    with pytest.raises(NotFound, match="fleetcore init"):
        PkiFolder.load(tmp_path / "pki", FLEET, clock)


def test_a_key_that_others_can_read_is_refused(folder, clock):
    (folder.path / "issuing.key").chmod(0o644)

    with pytest.raises(ConfigError, match="chmod 600"):
        PkiFolder.load(folder.path, FLEET, clock)


def test_a_folder_that_others_can_reach_is_refused(folder, clock):
    folder.path.chmod(0o755)

    with pytest.raises(ConfigError, match="chmod 700"):
        PkiFolder.load(folder.path, FLEET, clock)


def test_the_key_of_another_ca_is_refused(folder, clock, tmp_path):
    other = PkiFolder.create(tmp_path / "other", FLEET, ["localhost"], clock)
    shutil.copy(other.path / "issuing.key", folder.path / "issuing.key")

    with pytest.raises(ConfigError, match=r"does not belong to issuing\.pem"):
        PkiFolder.load(folder.path, FLEET, clock)


def test_an_issuing_ca_of_another_root_is_refused(folder, clock, tmp_path):
    other = PkiFolder.create(tmp_path / "other", FLEET, ["localhost"], clock)
    for name in ("issuing.key", "issuing.pem"):
        shutil.copy(other.path / name, folder.path / name)

    with pytest.raises(ConfigError, match=r"not under root\.pem"):
        PkiFolder.load(folder.path, FLEET, clock)


@pytest.mark.parametrize("name", ["root.pem", "issuing.pem", "issuing.key", "command.key"])
def test_a_damaged_file_is_named(folder, clock, name):
    (folder.path / name).write_bytes(b"-----BEGIN NONSENSE-----\n")

    with pytest.raises(ConfigError, match=name):
        PkiFolder.load(folder.path, FLEET, clock)


def test_devices_can_be_issued_to_while_the_root_key_is_offline(folder, clock):
    (folder.path / "root.key").unlink()

    authority = PkiFolder.load(folder.path, FLEET, clock).authority

    assert authority.root_key is None
    assert authority.issue_device("th-1", new_key().public_key()).serial_number > 0


def test_a_passphrase_locks_the_ca_keys_and_no_unattended_one(tmp_path, clock):
    folder = PkiFolder.create(tmp_path / "pki", FLEET, ["localhost"], clock, passphrase="correct horse")

    locked = {key.name for key in folder.path.glob("*.key") if b"ENCRYPTED" in key.read_bytes()}

    assert locked == {"root.key", "issuing.key", "command.key"}
    PkiFolder.load(folder.path, FLEET, clock, passphrase="correct horse")
    with pytest.raises(ConfigError, match="wrong passphrase"):
        PkiFolder.load(folder.path, FLEET, clock, passphrase="wrong")
    with pytest.raises(ConfigError, match="is encrypted"):
        PkiFolder.load(folder.path, FLEET, clock)


def openssl(*arguments: str) -> str:
    if shutil.which("openssl") is None:
        if os.environ.get("FLEETCORE_REQUIRE") == "all":
            pytest.fail("openssl is missing")
        pytest.skip("openssl is missing")
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    return done.stdout + done.stderr


@pytest.mark.peer("openssl")
@pytest.mark.parametrize(
    ("kind", "purpose"), [("server", "sslserver"), ("service", "sslclient"), ("device", "sslclient")]
)
def test_openssl_accepts_every_chain_under_its_strict_rules(folder, kind, purpose):
    leaf = folder.path / f"{kind}.pem"
    if kind == "device":
        leaf.write_bytes(folder.authority.issue_device("th-1", new_key().public_key()).public_bytes(Encoding.PEM))
    root, issuing = str(folder.path / "root.pem"), str(folder.path / "issuing.pem")

    answer = openssl(
        *("verify", "-x509_strict", "-purpose", purpose, "-CAfile", root, "-untrusted", issuing, str(leaf))
    )

    assert answer == f"{leaf}: OK\n"


@pytest.mark.peer("openssl")
def test_openssl_refuses_what_the_crl_names_and_accepts_the_rest(folder):
    from fleetcore.fleet.security.authority import RevokedEntry

    good, bad = (folder.authority.issue_device(name, new_key().public_key()) for name in ("good", "bad"))
    folder.crl.write_bytes(folder.authority.crl([RevokedEntry(serial=bad.serial_number, time_ms=1_700_000_000_000)], 2))
    answers = []
    for certificate in (good, bad):
        leaf = folder.path / "leaf.pem"
        leaf.write_bytes(certificate.public_bytes(Encoding.PEM))
        answers.append(
            openssl(
                *("verify", "-crl_check", "-CRLfile", str(folder.crl)),
                *("-CAfile", str(folder.path / "ca.pem"), str(leaf)),
            )
        )

    assert answers[0].endswith(": OK\n")
    assert "certificate revoked" in answers[1]


def test_a_folder_of_another_fleet_is_not_opened(tmp_path, clock):
    PkiFolder.create(tmp_path / "pki", "lab", ["localhost"], clock)

    with pytest.raises(ConfigError, match="made for another fleet than 'other'") as refused:
        PkiFolder.load(tmp_path / "pki", "other", clock)

    assert "Use the old name" in refused.value.remedy
