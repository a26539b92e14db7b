"""Files of the data folder that are replaced while something else reads or copies the folder they lie in."""

import errno
import stat
from pathlib import Path

import pytest

from fleetcore import files
from fleetcore.cli import doctor
from fleetcore.testing.faults import at_sync, failing_sync


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "pki"
    folder.mkdir()
    files.replace(folder / "crl.pem", b"one")
    return folder


def test_a_copy_made_while_a_file_is_replaced_holds_it_once_and_whole(folder, tmp_path):
    """The next content appears and vanishes under a name of its own beside it."""
    seen = []

    def copied_now(_):
        seen.extend(folder.iterdir())
        files.copy(folder, tmp_path / "copy")

    with at_sync(copied_now):
        files.replace(folder / "crl.pem", b"two")

    assert len(seen) == 2  # the copy was made while the next content lay beside the file
    assert {entry.name: entry.read_bytes() for entry in (tmp_path / "copy").iterdir()} == {"crl.pem": b"one"}
    assert (folder / "crl.pem").read_bytes() == b"two"


def test_what_a_killed_replacement_left_is_not_copied(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    with pytest.raises(KeyboardInterrupt):
        files.replace(folder / "crl.pem", b"two")
    monkeypatch.undo()
    assert len(list(folder.iterdir())) == 2

    files.copy(folder, tmp_path / "copy")

    assert [entry.name for entry in (tmp_path / "copy").iterdir()] == ["crl.pem"]


def test_a_failed_replacement_leaves_the_file_as_it_was(folder):
    with failing_sync(errno.ENOSPC), pytest.raises(OSError, match="No space"):
        files.replace(folder / "crl.pem", b"two")

    assert {entry.name: entry.read_bytes() for entry in folder.iterdir()} == {"crl.pem": b"one"}


def test_a_copy_is_the_owners_alone(folder, tmp_path):
    (folder / "crl.pem").chmod(0o644)
    folder.chmod(0o755)

    files.copy(folder, tmp_path / "copy")

    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "copy", tmp_path / "copy" / "crl.pem")]
    assert modes == [0o700, 0o600]


def test_doctor_passes_over_a_file_that_vanishes_while_it_looks(folder, monkeypatch):
    there = [folder / "crl.pem", folder / ".crl.pem-1.next"]
    monkeypatch.setattr(Path, "rglob", lambda *_: iter(there))

    assert [finding["state"] for finding in doctor._permissions(folder)] == ["ok"]
