"""Folders that commands make and name. Guards against rights that the umask leaves, and printed commands that break."""

import os
import shlex

import pytest


@pytest.fixture
def open_umask():
    """The umask that keeps nobody out."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
def test_what_holds_secrets_is_for_its_owner_alone_whatever_the_umask(run, tmp_path):
    data = tmp_path / "above" / "it" / "data"
    for words in (
        ("init", data),
        ("device", "register", "th-1", "--type", "t", "--data", data),
        ("enrollment", "claim", "create", "b1", "--quota", "1", "--into", tmp_path / "claims" / "b1", "--data", data),
        ("backup", "make", tmp_path / "copies" / "today", "--data", data),
        ("restore", tmp_path / "copies" / "today", "--data", tmp_path / "back" / "again"),
        ("firmware", "keygen", tmp_path / "release"),
    ):
        done = run(*words)
        assert done.code == 0, done.err

    found = {path.relative_to(tmp_path): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert {path: oct(mode) for path, mode in found.items() if mode & 0o022} == {}
    assert {path: oct(mode) for path, mode in found.items() if mode & 0o077 and path.suffix != ".pub"} == {}


def test_printed_commands_work_for_a_folder_with_blanks_and_quotes(run, tmp_path):
    data, copy, back = (tmp_path / name for name in ("my 'fleet'", "a copy; of it", "$HOME again"))
    printed = [
        (run("init", data), data, "serve"),
        (run("backup", "make", copy, "--data", data), copy, "restore"),
        (run("restore", copy, "--data", back), back, "serve"),
    ]

    for done, place, verb in printed:
        assert done.code == 0, done.err
        (line,) = [line for line in done.out.splitlines() if f"fleetcore {verb}" in line]
        words = shlex.split(line[line.index(f"fleetcore {verb}") :])
        assert str(place) in words


def test_a_remedy_for_a_missing_folder_can_be_typed(run, tmp_path):
    place = tmp_path / "no fleet"
    place.mkdir()

    done = run("serve", "--data", place)

    command = done.err.split("`")[1]
    assert shlex.split(command) == ["fleetcore", "init", str(place)]
