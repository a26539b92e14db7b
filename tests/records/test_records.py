"""Every data folder that a release wrote opens in this one, and holds what it held."""

import json
import shutil
import sqlite3
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from fleetcore import IoTFleetManager
from fleetcore.builtin.sqlite.schema import VERSION
from fleetcore.cli.root import Root
from tests.records.write import look

HERE = Path(__file__).parent
RECORDS = sorted(HERE.glob("schema-*.tar.gz"))


@pytest.fixture(params=RECORDS, ids=[one.name.partition(".")[0] for one in RECORDS])
def record(request, tmp_path):
    """A copy of the folder, and what was in it when it was written."""
    with tarfile.open(request.param) as tar:
        tar.extractall(tmp_path, filter="data")
    # What unpacks gives folders to everybody; the store's is its owner's alone.
    (tmp_path / "data").chmod(0o700)
    (tmp_path / "data" / "pki").chmod(0o700)
    known = request.param.with_name(request.param.name.replace(".tar.gz", ".json"))
    return tmp_path / "data", json.loads(known.read_text(encoding="utf-8"))


def holds(now, then, path=""):
    """What was there is there; a later release may say more."""
    if isinstance(then, dict):
        for name in then:
            assert name in now, f"{path}/{name} is gone"
            holds(now[name], then[name], f"{path}/{name}")
    elif isinstance(then, list):
        assert len(now) == len(then), path
        for at, (one, other) in enumerate(zip(now, then, strict=True)):
            holds(one, other, f"{path}/{at}")
    else:
        assert now == then, path


async def test_a_folder_of_an_earlier_schema_holds_what_it_held(record):
    data, known = record

    async with IoTFleetManager(data) as manager:
        now = await look(manager, known["command"]["id"])
        problems = (await manager.check_storage()).problems

    holds(json.loads(json.dumps(now)), known)
    assert problems == []


async def test_a_folder_of_an_earlier_schema_goes_on_working(record):
    data, known = record

    async with IoTFleetManager(data) as manager:
        await manager.collect_telemetry("th-1", "temperature", 21.0)
        await manager.update_device("th-1", model="T-2000")
        await manager.register_device("new-1", "thermometer")

    async with IoTFleetManager(data) as manager:
        assert len(await manager.query_telemetry("th-1", "temperature")) == known["temperature"]["count"] + 1
        assert (await manager.get_device("th-1"))["model"] == "T-2000"


def test_there_is_a_record_of_every_schema():
    assert [one.name for one in RECORDS] == sorted(f"schema-{number}.tar.gz" for number in range(1, VERSION + 1))


def test_a_folder_of_a_later_release_is_left_alone_with_the_remedy(record):
    data, _ = record
    database = data / "fleet.db"
    with sqlite3.connect(database) as db:
        db.execute(f"PRAGMA user_version={VERSION + 1}")
    db.close()
    before = shutil.copy(database, data / "before")

    done = CliRunner().invoke(Root(), ["device", "list", "--data", str(data)])

    assert done.exit_code != 0
    assert f"schema {VERSION + 1}" in str(done.exception)
    assert "newer" in str(done.exception)
    assert database.read_bytes() == Path(before).read_bytes()
