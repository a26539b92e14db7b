"""The store in one file keeps the whole contract, survives a kill, and carries a fleet."""

import asyncio
import importlib.util
import logging
import shutil
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest

from fleetcore import IoTFleetManager
from fleetcore.errors import DataFolderInUse, Unavailable
from fleetcore.interfaces.provider import Context
from fleetcore.interfaces.storage import Sharing
from fleetcore.model.store import Commit, Put
from fleetcore.runtime.backup import backup, restore
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.testing.storage_contract import StorageContract

FILE = Path(__file__).parents[2] / "examples" / "small_storage.py"


@pytest.fixture(scope="module")
def small():
    spec = importlib.util.spec_from_file_location("small_storage", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["small_storage"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["small_storage"]


@pytest.fixture
def open_at(small):
    context = Context(
        name="small", fleet="test", clock=MovableClock(), logger=logging.getLogger("test"), secret=lambda text: text
    )
    return lambda folder: small.open_small(small.SmallConfig(path=str(folder)), context)


class TestSmallStorage(StorageContract):
    @pytest.fixture
    def open_storage(self, open_at, tmp_path):
        numbers = count()
        return lambda: open_at(tmp_path / f"store-{next(numbers)}")

    @pytest.fixture
    def open_again(self, open_at, tmp_path):
        return lambda: open_at(tmp_path / "the-store")

    @pytest.fixture
    def open_backup(self, open_at):
        return open_at


class TestSharedByServers(StorageContract):
    """The same with a catalog that is read again before each step: any number of processes may open it."""

    @pytest.fixture
    def open_storage(self, open_shared, tmp_path):
        numbers = count()
        return lambda: open_shared(tmp_path / f"store-{next(numbers)}")

    @pytest.fixture
    def open_again(self, open_shared, tmp_path):
        return lambda: open_shared(tmp_path / "the-store")

    @pytest.fixture
    def open_backup(self, open_shared):
        return open_shared


@pytest.fixture
def open_shared(small, monkeypatch, open_at):
    class Shared(small.SmallStorage):
        sharing = Sharing.SHARED

        def _transaction(self, work, begin):
            def current():
                rows = self._sql("SELECT * FROM series")
                for device in {series.device for series in self._catalog.of(None)} - {row[1] for row in rows}:
                    self._catalog.remove(device)
                self._catalog.add(small._series(*row) for row in rows)
                return work()

            return super()._transaction(current, begin)

    monkeypatch.setattr(small, "SmallStorage", Shared)
    return open_at


WRITE = """
import asyncio, importlib.util, logging, sys
from fleetcore.interfaces.provider import Context
from fleetcore.model.store import Commit, Put
from fleetcore.runtime.backup import backup, restore
from fleetcore.testing.clock import MovableClock

spec = importlib.util.spec_from_file_location("small_storage", sys.argv[1])
small = sys.modules["small_storage"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(small)
context = Context(name="s", fleet="t", clock=MovableClock(), logger=logging.getLogger(), secret=str)

async def main():
    async with small.open_small(small.SmallConfig(path=sys.argv[2]), context) as storage:
        for number in range(10**9):
            puts = tuple(Put(kind="k", key=f"{number}-{part}", body={}) for part in "ab")
            await storage.commit(Commit(puts=puts, add={("s", "n"): 1}))
            print(number, flush=True)

asyncio.run(main())
"""


async def test_what_was_committed_survives_a_kill_and_commits_stay_whole(open_at, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE, FILE, tmp_path / "store"], stdout=subprocess.PIPE, text=True
    )
    with process.stdout as lines:
        said = [int(next(lines)) for _ in range(40)]
        process.kill()
        said += [int(line) for line in lines]
        process.wait(PATIENCE_S)

    async with open_at(tmp_path / "store") as storage:
        keys = {record.key for record in (await storage.find("k", limit=10_000)).items}
        assert {f"{number}-{part}" for number in said for part in "ab"} <= keys
        assert {key[:-2] for key in keys if key.endswith("a")} == {key[:-2] for key in keys if key.endswith("b")}
        assert await storage.counters("s") == {"n": len(keys) // 2}
        assert await storage.position() == len(keys) // 2


async def test_a_full_disk_refuses_a_commit_and_the_next_one_goes_on(open_at, tmp_path):
    async with open_at(tmp_path / "store") as storage:
        await storage.commit(Commit(puts=(Put(kind="k", key="a", body={}),)))
        (pages,) = storage._db.execute("PRAGMA page_count").fetchone()
        storage._db.execute(f"PRAGMA max_page_count = {pages}")

        with pytest.raises(Unavailable) as refused:
            await storage.commit(Commit(puts=(Put(kind="k", key="b", body={"x": "y" * 100_000}),)))

        storage._db.execute("PRAGMA max_page_count = 100000")
        await storage.commit(Commit(puts=(Put(kind="k", key="c", body={}),)))
        assert [record.key for record in (await storage.find("k")).items] == ["a", "c"]
    assert refused.value.code == "storage_full"


@pytest.fixture
def data(tmp_path):
    """A data folder that names the store."""
    folder = tmp_path / "data"
    folder.mkdir()
    shutil.copy(FILE, folder)
    (folder / "fleet.toml").write_text(
        """
[fleet]
name = "lab"
plugins = ["./small_storage.py"]
data = "."

[storage]
kind = "small"

[protocols.local]

[detectors.statistical]
"""
    )
    (folder / "fleet.toml").chmod(0o600)
    return folder


async def test_the_script_of_the_readme_keeps_its_fleet_in_it(data):
    async with IoTFleetManager(data, create=True) as manager:
        device = await manager.register_device("sensor-001", "temperature-sensor", {"tags": ["outdoor"]})
        await manager.provision_device(device, {"reporting_interval": 300})
        await manager.collect_telemetry(device, "temperature", 25.5, "celsius")
        await manager.wait_idle()
        assert (await manager.get_fleet_health())["health_score"] > 0

    async with IoTFleetManager(data) as manager:
        assert [reading.value for reading in await manager.list_device_latest_readings(device)] == [25.5]
        assert (await manager.check_storage())["problems"] == []
        await manager.erase_device(device)
        assert (await manager.list_devices()).items == []


def test_a_server_runs_on_it(data):
    def fleetcore(*words):
        command = [sys.executable, "-m", "fleetcore", *words, "--data", str(data)]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)

    made = subprocess.run(
        [sys.executable, "-m", "fleetcore", "init", str(data)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    server = subprocess.Popen(
        [sys.executable, "-m", "fleetcore", "serve", "--data", str(data)], stdout=subprocess.PIPE, text=True
    )
    with server.stdout as lines:
        assert "ready\n" in iter(lines.readline, "")
        registered = fleetcore("device", "register", "th-1", "--type", "sensor")
        listed = fleetcore("device", "list", "-o", "jsonl")
        doctor = fleetcore("doctor")
        copied = fleetcore("backup", str(data.parent / "copy"))
        server.terminate()
        server.wait(PATIENCE_S)

    assert registered.returncode == 0, registered.stderr
    assert '"th-1"' in listed.stdout
    assert doctor.returncode == 0, doctor.stdout
    assert copied.returncode == 0, copied.stderr
    assert server.returncode == 0


SHARED = {
    "class SmallStorage(Storage):": "class SmallStorage(Storage):\n    sharing = Sharing.SHARED",
    "            self._sql(begin)": (
        "            self._sql(begin)\n"
        "            self._catalog.add(_series(*row) for row in self._sql('SELECT * FROM series'))"
    ),
    "    with context.lease(folder):": "    if True:",
    "T = TypeVar": "from fleetcore.interfaces import Sharing\nT = TypeVar",
}


@pytest.mark.parametrize("shared", [True, False])
async def test_several_servers_may_have_a_shared_store_open_each_on_a_folder_of_its_own(data, tmp_path, shared):
    plugin, toml = data / "small_storage.py", data / "fleet.toml"
    if shared:
        text = plugin.read_text()
        for old, new in SHARED.items():
            assert old in text
            text = text.replace(old, new, 1)
        plugin.write_text(text)
    toml.write_text(toml.read_text().replace('kind = "small"', f'kind = "small"\npath = "{tmp_path / "store"}"'))
    async with IoTFleetManager(data, create=True) as manager:
        await manager.register_device("x", "sensor")
    shutil.copytree(data, tmp_path / "second")

    async with IoTFleetManager(data) as one:
        second = IoTFleetManager(tmp_path / "second")
        if not shared:
            with pytest.raises(DataFolderInUse):
                await second.open()
            return
        async with second as two:
            await asyncio.gather(
                *(
                    server.register_device(f"{name}-{i}", "sensor")
                    for name, server in (("y", one), ("z", two))
                    for i in range(5)
                )
            )
            await one.collect_telemetry("x", "heat", 1.0, "celsius")
            await two.collect_telemetry("x", "heat", 2.0, "celsius")

            for server in (one, two):
                await server.wait_idle()
                assert len((await server.list_devices()).items) == 11
                assert [reading.value for reading in await server.list_device_latest_readings("x")] == [2.0]


async def test_a_fleet_on_it_is_restored_with_its_plugin(tmp_path):
    data = tmp_path / "fleet"
    (data / "mine").mkdir(parents=True)
    shutil.copy(FILE, data / "mine")
    (data / "fleet.toml").write_text('[fleet]\nplugins = ["mine/small_storage.py"]\n[storage]\nkind = "small"\n')

    async with IoTFleetManager(data, create=True) as manager:
        await manager.register_device("th-1", "thermometer")
        await backup(await manager.open(), tmp_path / "copy")
    restore(tmp_path / "copy", tmp_path / "restored")

    async with IoTFleetManager(tmp_path / "restored") as manager:
        assert (await manager.get_device("th-1"))["type"] == "thermometer"
