"""The upgrade of a folder of schema 1: cut off before any of its commits, the next opening completes it."""

import asyncio
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

from fleetcore import IoTFleetManager
from fleetcore.builtin.sqlite.schema import VERSION
from fleetcore.cli.root import run
from fleetcore.errors import ConfigError, StorageError
from fleetcore.model.store import Commit
from fleetcore.runtime.upgrade import FORMAT, MARK, differences
from tests.faults.test_missing_parts import _CUT

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("record")
    with tarfile.open(HERE / "complete-1.tar.gz") as tar:
        tar.extractall(folder, filter="data")
    return folder / "data"


def copied(unpacked, target):
    shutil.copytree(unpacked, target)
    for folder in (target, target / "pki"):
        folder.chmod(0o700)
    return target


async def looked(data):
    """What the upgrade is about: the counters are right, lists are in order, sequences go on, the parts agree."""
    async with IoTFleetManager(data) as manager:
        fleet = await manager.open()
        campaigns = (await fleet.campaigns.records.page(limit=100)).items
        counts = {campaign.id: dict((await fleet.campaigns.counts(campaign.id)).states) for campaign in campaigns}
        commands = (await fleet.commands.records.page(limit=1000)).items
        floors = {one.device: await fleet.storage.floor("command-sequence", one.device) for one in commands}
        highest = {device: max(one.sequence for one in commands if one.device == device) for device in floors}
        assert await differences(fleet.storage, (fleet.commands.records, fleet.campaigns.executions)) == {}
        assert floors == highest
        assert [one.issued_at for one in commands] == sorted(one.issued_at for one in commands)
        members = {group.id: fleet.groups.members(group.id) for group in fleet.groups.list()}
        for group, devices in members.items():
            assert list((await fleet.groups.members_page([group], limit=1000))[0]) == list(devices)
        named = tomllib.loads((data / "fleet.toml").read_text())["fleet"]["id"]
        assert {named, (data / "pki" / "fleet.id").read_text().strip(), fleet.id} == {fleet.id}
        return counts


def test_an_upgrade_that_is_cut_off_before_any_of_its_commits_is_completed(unpacked, tmp_path):
    whole = asyncio.run(looked(copied(unpacked, tmp_path / "whole")))
    assert any(whole.values())

    commits, ended = 0, True
    while ended:
        data = copied(unpacked, tmp_path / str(commits))
        ended = subprocess.run([sys.executable, "-c", _CUT, str(data), str(commits)], check=False).returncode == 9
        assert asyncio.run(looked(data)) == whole
        commits += 1

    assert commits > 8


async def test_a_second_opening_upgrades_nothing(unpacked, tmp_path, caplog):
    data = copied(unpacked, tmp_path / "data")
    await looked(data)
    before = (data / "fleet.toml").read_text()
    caplog.clear()

    with caplog.at_level("INFO", "fleetcore.runtime.upgrade"):
        await looked(data)

    assert not caplog.records
    assert (data / "fleet.toml").read_text() == before


@pytest.mark.parametrize("part", ["fleet.toml", "pki", "fleet.db"])
async def test_an_old_folder_of_which_a_part_is_missing_is_not_adopted(unpacked, tmp_path, part):
    data = copied(unpacked, tmp_path / "data")
    for path in data.glob(f"{part}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    with pytest.raises(ConfigError, match="adopt") as refused:
        await IoTFleetManager(data, create=False).open()

    assert "without" in str(refused.value)


async def test_a_folder_of_a_newer_release_is_refused_by_name_and_left_as_it_is(unpacked, tmp_path):
    data = copied(unpacked, tmp_path / "data")
    async with IoTFleetManager(data):
        pass
    with sqlite3.connect(data / "fleet.db") as database:
        database.execute(f"PRAGMA user_version={VERSION + 1}")

    with pytest.raises(StorageError, match=f"schema {VERSION + 1}"):
        await IoTFleetManager(data).open()


async def test_what_a_later_release_keeps_beside_its_records_is_refused_by_name(unpacked, tmp_path):
    data = copied(unpacked, tmp_path / "data")
    async with IoTFleetManager(data) as manager:
        fleet = await manager.open()
        await fleet.storage.commit(Commit(blobs={MARK: str(FORMAT + 1).encode()}))

    with pytest.raises(StorageError, match=f"format {FORMAT + 1}"):
        await IoTFleetManager(data).open()


def test_keys_of_another_fleet_of_the_same_name_are_not_adopted(unpacked, tmp_path, capsys):
    data = copied(unpacked, tmp_path / "data")
    name = tomllib.loads((data / "fleet.toml").read_text())["fleet"]["name"]
    assert run(["init", str(tmp_path / "other"), "--name", name]) == 0
    shutil.rmtree(data / "pki")
    shutil.copytree(tmp_path / "other" / "pki", data / "pki")
    (data / "pki" / "fleet.id").unlink()
    before = (data / "fleet.toml").read_text()

    assert run(["device", "list", "--data", str(data)]) == 2

    assert "another fleet" in capsys.readouterr().err
    assert (data / "fleet.toml").read_text() == before
    assert not (data / "pki" / "fleet.id").exists()
