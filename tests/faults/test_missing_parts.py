"""A part of a fleet that is missing was lost: nothing is made in its place, and what is missing is named."""

import asyncio
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import tomllib

import pytest

from fleetcore import IoTFleetManager
from fleetcore.cli.root import run
from fleetcore.errors import ConfigError
from fleetcore.testing.faults import flip_bit

PARTS = {"pki/": "pki", "the store": "fleet.db*", "fleet.toml": "fleet.toml"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A fleet with a device, made by the command line."""
    data = tmp_path_factory.mktemp("whole") / "data"
    assert run(["init", str(data), "--name", "lab"]) == 0
    assert run(["device", "register", "th-1", "--data", str(data)]) == 0
    return data


@pytest.fixture
def data(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "data")


@pytest.fixture
def without(data):
    """Removes a part; gives the folder."""

    def take(part):
        for path in data.glob(PARTS[part]):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return data

    return take


def listing(data):
    return sorted(str(path.relative_to(data)) for path in data.rglob("*") if path.name != "lock")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("words", [["serve"], ["device", "list"], ["device", "register", "new-1"], ["doctor"]])
def test_what_is_missing_is_named_by_every_command_and_nothing_is_made(without, capsys, part, words):
    data = without(part)
    before = listing(data)

    code = run([*words, "--data", str(data)])

    said = "".join(capsys.readouterr())
    assert code != 0
    assert part in said
    assert "backup" in said
    assert listing(data) == before


@pytest.mark.parametrize("part", PARTS)
async def test_the_library_refuses_too(without, part):
    with pytest.raises(ConfigError, match=part):
        await IoTFleetManager(without(part)).open()


def test_an_empty_fleet_toml_is_not_an_empty_fleet(data, capsys):
    (data / "fleet.toml").write_text("")

    code = run(["device", "register", "new-1", "--data", str(data)])

    assert code == 2
    assert "fleet.toml" in capsys.readouterr().err


def test_a_fleet_toml_that_was_written_anew_for_this_fleet_gets_its_id(data, capsys):
    before = tomllib.loads((data / "fleet.toml").read_text())["fleet"]["id"]
    (data / "fleet.toml").write_text('[fleet]\nname = "lab"\ndata = "."\n')

    assert run(["device", "list", "--data", str(data)]) == 0

    assert tomllib.loads((data / "fleet.toml").read_text())["fleet"]["id"] == before


def test_a_fleet_toml_of_another_name_does_not(data, capsys):
    (data / "fleet.toml").write_text('[fleet]\nname = "other"\ndata = "."\n')

    assert run(["device", "list", "--data", str(data)]) == 2


@pytest.mark.parametrize("words", [["serve"], ["device", "list"], ["doctor"]])
def test_a_command_makes_no_fleet_of_a_folder_that_holds_nothing(tmp_path, capsys, words):
    code = run([*words, "--data", str(tmp_path)])

    assert code != 0
    assert "fleetcore init" in "".join(capsys.readouterr())
    assert listing(tmp_path) == []


def test_init_completes_a_fleet_toml_that_names_no_fleet_yet(tmp_path, capsys):
    (tmp_path / "fleet.toml").write_text('[fleet]\nname = "mine"  # by hand\n\n[limits]\nburst = 7\n')
    assert run(["device", "list", "--data", str(tmp_path)]) == 2

    assert run(["init", str(tmp_path)]) == 0

    written = (tmp_path / "fleet.toml").read_text()
    assert "# by hand" in written
    assert tomllib.loads(written)["limits"] == {"burst": 7}
    assert run(["device", "list", "--data", str(tmp_path)]) == 0


def test_parts_of_two_fleets_are_told_apart(data, tmp_path, capsys):
    assert run(["init", str(tmp_path / "other"), "--name", "lab"]) == 0
    for name in ("pki", "fleet.db", "fleet.toml"):
        mixed = shutil.copytree(data, tmp_path / f"with-other-{name}")
        shutil.rmtree(mixed / name) if name == "pki" else (mixed / name).unlink()
        foreign = tmp_path / "other" / name
        shutil.copytree(foreign, mixed / name) if name == "pki" else shutil.copy(foreign, mixed / name)
        capsys.readouterr()

        assert run(["device", "list", "--data", str(mixed)]) == 2, name

        assert "different fleets" in capsys.readouterr().err


def test_adopt_writes_what_is_missing_only_where_it_is_told_to(without, capsys):
    data = without("pki/")

    assert run(["adopt", "--data", str(data)]) == 2
    assert not (data / "pki").exists()
    assert run(["adopt", "--data", str(data), "--new-ca"]) == 0
    capsys.readouterr()
    assert run(["device", "list", "--data", str(data), "-o", "json"]) == 0
    assert [device["id"] for device in json.loads(capsys.readouterr().out)] == ["th-1"]


def test_adopt_takes_the_name_of_a_lost_fleet_toml_from_the_certificates(without):
    data = without("fleet.toml")

    assert run(["adopt", "--data", str(data)]) == 0

    assert tomllib.loads((data / "fleet.toml").read_text())["fleet"]["name"] == "lab"
    assert run(["device", "list", "--data", str(data)]) == 0


def test_a_database_that_is_gone_from_beside_its_log_is_not_made_again(data, capsys):
    (data / "fleet.db").unlink()
    (data / "fleet.db-wal").write_bytes(b"left behind")

    assert run(["adopt", "--data", str(data), "--empty-store"]) == 2

    assert "fleet.db-wal" in capsys.readouterr().err


def test_an_empty_folder_for_the_keys_is_as_good_as_none(without, capsys):
    data = without("pki/")
    (data / "pki").mkdir(mode=0o700)

    for words in (["device", "list"], ["adopt"]):
        assert run([*words, "--data", str(data)]) == 2
        assert "without pki/" in capsys.readouterr().err
        assert list((data / "pki").iterdir()) == []
    assert run(["adopt", "--new-ca", "--data", str(data)]) == 0
    assert run(["device", "list", "--data", str(data)]) == 0


UNUSUAL = {
    "inline": 'fleet = {name = "lab", data = "."}\n',
    "dotted": 'fleet.name = "lab"\nfleet.data = "."\n',
    "quoted": '["fleet"]\nname = "lab"\ndata = "."\n',
}


@pytest.mark.parametrize("text", UNUSUAL.values(), ids=UNUSUAL)
def test_an_unusual_fleet_toml_is_left_as_it_is_and_the_line_to_add_is_named(data, capsys, text):
    fleet = tomllib.loads((data / "fleet.toml").read_text())["fleet"]["id"]
    (data / "fleet.toml").write_text(text)

    assert run(["device", "list", "--data", str(data)]) == 2

    assert f'id = "{fleet}"' in capsys.readouterr().err
    assert (data / "fleet.toml").read_text() == text


def test_a_link_to_a_fleet_toml_stays_one(data, tmp_path):
    (data / "fleet.toml").unlink()
    real = tmp_path / "elsewhere.toml"
    real.write_text('[fleet]\nname = "lab"\ndata = "."\n')
    (data / "fleet.toml").symlink_to(real)

    assert run(["device", "list", "--data", str(data)]) == 0

    assert (data / "fleet.toml").is_symlink()
    assert "id" in tomllib.loads(real.read_text())["fleet"]


_CUT = """
import asyncio, os, sys
from fleetcore import IoTFleetManager
from fleetcore.builtin.sqlite.storage import SqliteStorage
left, commit = int(sys.argv[2]), SqliteStorage.commit
async def cut(self, change):
    global left
    if not left:
        os._exit(9)
    left -= 1
    return await commit(self, change)
SqliteStorage.commit = cut
async def main():
    async with IoTFleetManager(sys.argv[1], create=True):
        pass
asyncio.run(main())
"""


def cut_off(data, commits):
    """Opens the folder in a process that ends before its ``commits``-th commit; whether it came so far."""
    done = subprocess.run([sys.executable, "-c", _CUT, str(data), str(commits)], check=False)
    assert done.returncode in (0, 9)
    return done.returncode == 9


def test_making_a_fleet_goes_on_where_it_was_cut_off(tmp_path):
    commits, ended = 0, True
    while ended:
        data = tmp_path / str(commits)
        ended = cut_off(data, commits)
        if ended:
            assert not cut_off(data, 1000)
        assert run(["device", "list", "--data", str(data)]) == 0
        assert not (data / ".new-fleet").exists()
        commits += 1

    assert commits > 2


def test_a_backup_with_one_flipped_bit_is_not_restored_and_leaves_no_folder(data, tmp_path, capsys):
    assert run(["backup", str(tmp_path / "copy"), "--data", str(data)]) == 0
    for file in ("fleet.db", "pki/issuing.key", "fleet.toml"):
        damaged = shutil.copytree(tmp_path / "copy", tmp_path / "damaged" / file.replace("/", "-"))
        flip_bit(damaged / file)
        capsys.readouterr()

        assert run(["restore", str(damaged), "--data", str(tmp_path / "new")]) == 5

        assert file in capsys.readouterr().err
        assert not (tmp_path / "new").exists()
    assert run(["restore", str(tmp_path / "copy"), "--data", str(tmp_path / "new")]) == 0


@pytest.fixture
def copy(data, tmp_path):
    """A backup of it."""
    assert run(["backup", str(tmp_path / "copy"), "--data", str(data)]) == 0
    return tmp_path / "copy"


@pytest.mark.parametrize("name", ["absolute", "elsewhere"])
def test_what_is_restored_is_the_new_folder_whatever_data_the_backup_names(data, tmp_path, capsys, name):
    text = (data / "fleet.toml").read_text()
    file = data / "fleet.toml"
    if name == "elsewhere":
        file.unlink()
        file = tmp_path / "etc" / "fleet.toml"
        file.parent.mkdir()
    file.write_text(text.replace('data = "."', f'data = "{data}"').replace("[fleet]", "[limits]\nburst = 7\n\n[fleet]"))
    assert run(["backup", str(tmp_path / "copy"), "--data", str(file.parent)]) == 0
    new = tmp_path / "new"

    assert run(["restore", str(tmp_path / "copy"), "--data", str(new)]) == 0

    assert run(["device", "register", "only-new", "--data", str(new)]) == 0
    capsys.readouterr()
    assert run(["device", "list", "--data", str(file.parent)]) == 0
    assert "only-new" not in capsys.readouterr().out
    assert tomllib.loads((new / "fleet.toml").read_text())["limits"] == {"burst": 7}


def test_a_backup_is_not_restored_into_itself(copy, capsys):
    before = listing(copy)

    assert run(["restore", str(copy), "--data", str(copy / "new")]) == 4

    assert listing(copy) == before


@pytest.mark.parametrize("text", ["[]", "{}", "no JSON", '{"fleet":"a","name":"b","made":1,"files":[]}'])
def test_a_manifest_that_is_none_is_refused(copy, tmp_path, capsys, text):
    (copy / "manifest.json").write_text(text)

    assert run(["restore", str(copy), "--data", str(tmp_path / "new")]) == 5

    assert "manifest" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_backup_without_a_manifest_is_refused_unless_it_is_wanted_so(data, tmp_path, capsys):
    assert run(["backup", str(tmp_path / "copy"), "--data", str(data)]) == 0
    (tmp_path / "copy" / "manifest.json").unlink()

    assert run(["restore", str(tmp_path / "copy"), "--data", str(tmp_path / "new")]) != 0
    assert not (tmp_path / "new").exists()
    assert "has no manifest.json" in capsys.readouterr().err
    assert run(["backup", "verify", str(tmp_path / "copy")]) != 0
    assert run(["restore", str(tmp_path / "copy"), "--data", str(tmp_path / "new"), "--unverified"]) == 0


def test_a_flipped_bit_anywhere_in_a_backup_is_found_before_a_folder_is_made(data, tmp_path, capsys):
    assert run(["backup", str(tmp_path / "copy"), "--data", str(data)]) == 0
    assert run(["backup", "verify", str(tmp_path / "copy")]) == 0
    assert "is intact" in capsys.readouterr().out
    chance = random.Random(3)
    files = sorted(path for path in (tmp_path / "copy").rglob("*") if path.is_file() and path.stat().st_size)
    for file in files * 3:
        kept = file.read_bytes()
        damaged = bytearray(kept)
        damaged[chance.randrange(len(kept))] ^= 1 << chance.randrange(8)
        file.write_bytes(damaged)

        assert run(["backup", "verify", str(tmp_path / "copy")]) != 0, file
        assert run(["restore", str(tmp_path / "copy"), "--data", str(tmp_path / "new")]) != 0, file
        assert not (tmp_path / "new").exists()
        file.write_bytes(kept)
    assert run(["backup", "verify", str(tmp_path / "copy")]) == 0


def test_doctor_reads_what_is_stored_and_names_the_damage(data, capsys):
    assert run(["device", "register", "pump-1", "--type", "pump", "--data", str(data)]) == 0
    with sqlite3.connect(data / "fleet.db") as db:
        db.execute("UPDATE records SET body=replace(body, 'pump', 'pumq') WHERE kind='device'")
    db.close()
    capsys.readouterr()

    for words in (["doctor"], ["doctor", "--deep"]):
        assert run([*words, "--data", str(data)]) == 1
        assert "The device record 'pump-1' is damaged" in capsys.readouterr().out
    assert run(["backup", str(data.parent / "copy"), "--data", str(data)]) != 0
    assert "the copied data is damaged: The device record 'pump-1'" in capsys.readouterr().err
    assert run(["device", "show", "pump-1", "--data", str(data)]) != 0
    assert "data_damaged" in capsys.readouterr().err


async def test_checkpoints_of_another_fleet_do_not_vouch_for_this_one(data, tmp_path):
    async with IoTFleetManager(data) as manager:
        fleet = await manager.open()
        await manager.wait_idle()
        fleet.audit.fleet = "0" * 32
        verdict = await fleet.audit.verify(fleet.security.signing_keys())

    assert not verdict.ok
    assert "another fleet" in verdict.why
    await asyncio.sleep(0)


def test_a_marker_that_was_left_behind_makes_no_new_keys(without):
    data = without("pki/")
    fleet = tomllib.loads((data / "fleet.toml").read_text())["fleet"]["id"]
    (data / ".new-fleet").write_text(f"{fleet}\n")

    assert run(["device", "list", "--data", str(data)]) == 2

    assert not (data / "pki").exists()


def test_a_marker_of_another_making_is_removed_and_the_fleet_opens(data):
    (data / ".new-fleet").write_text("0" * 32 + "\n")

    assert run(["device", "list", "--data", str(data)]) == 0

    assert not (data / ".new-fleet").exists()
