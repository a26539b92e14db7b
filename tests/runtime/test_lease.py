"""The lease on a data folder: one process at a time, also where the file `lock` is deleted, and it says who has it."""

import asyncio
import fcntl
import gc
import os
import subprocess
import sys
from contextlib import contextmanager

import pytest

from fleetcore import IoTFleetManager, files
from fleetcore.cli.connect import connect
from fleetcore.errors import DataFolderInUse, PluginError
from fleetcore.frontends.control_client import ControlClient
from fleetcore.runtime.backup import restore
from fleetcore.runtime.lease import Lease, holder
from fleetcore.testing.patience import PATIENCE_S

HOLD = """
import sys
from pathlib import Path
from fleetcore.runtime.backup import restore
from fleetcore.runtime.lease import Lease
with Lease.take(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another(folder, code=HOLD):
    """Another process that holds the folder; yields its process id."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.stdin.close()
        process.wait(PATIENCE_S)
        process.stdout.close()


def test_another_process_is_turned_away_by_its_id_and_let_in_after_a_kill(tmp_path):
    with another(tmp_path) as process:
        with pytest.raises(DataFolderInUse) as refused:
            Lease.take(tmp_path)
        assert holder(tmp_path).pid == process.pid
        assert not holder(tmp_path).here
        process.kill()
        process.wait(PATIENCE_S)

        Lease.take(tmp_path).release()

    assert refused.value.ids["pid"] == process.pid
    assert str(process.pid) in refused.value.message
    assert holder(tmp_path) is None


def test_the_same_process_is_told_so_in_its_own_words(tmp_path):
    with Lease.take(tmp_path):
        with pytest.raises(DataFolderInUse, match="This process") as refused:
            Lease.take(tmp_path / ".")
        assert holder(tmp_path).here

    assert refused.value.ids["pid"] == os.getpid()
    assert "close()" in refused.value.remedy
    Lease.take(tmp_path).release()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_deleted_or_replaced_file_gives_no_second_lease(tmp_path, replaced):
    with another(tmp_path) as process:
        (tmp_path / "lock").unlink()
        if replaced:
            (tmp_path / "lock").touch()

        with pytest.raises(DataFolderInUse):
            Lease.take(tmp_path)

        assert holder(tmp_path) is not None
        assert process.poll() is None


def test_a_deleted_file_comes_back_and_keeps_an_older_release_out(tmp_path):
    with Lease.take(tmp_path) as lease:
        (tmp_path / "lock").unlink()

        lease.mend()

        assert not older_release_gets_in(tmp_path)
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    assert older_release_gets_in(tmp_path)


def test_mending_tells_of_an_older_release_that_has_taken_a_new_file(tmp_path):
    with Lease.take(tmp_path) as lease:
        (tmp_path / "lock").unlink()
        with (tmp_path / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write("4711\n")
            file.flush()

            with pytest.raises(DataFolderInUse) as refused:
                lease.mend()

        assert refused.value.ids["pid"] == 4711


def older_release_gets_in(folder):
    """Whether the lock of releases before the lease, on the file alone, can be taken."""
    with (folder / "lock").open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


def test_an_older_release_that_has_the_folder_keeps_the_lease_out(tmp_path):
    with (tmp_path / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("4711\n")
        file.flush()

        with pytest.raises(DataFolderInUse) as refused:
            Lease.take(tmp_path)

    assert refused.value.ids["pid"] == 4711


def test_a_file_that_is_replaced_between_opening_and_locking_is_opened_again(tmp_path, monkeypatch):
    real, calls = fcntl.flock, []

    def replacing(descriptor, mode):
        calls.append(mode)
        if len(calls) == 1:
            (tmp_path / "lock").unlink()
            (tmp_path / "lock").touch()
        real(descriptor, mode)

    monkeypatch.setattr(fcntl, "flock", replacing)

    with Lease.take(tmp_path):
        assert not older_release_gets_in(tmp_path)


def test_asking_who_holds_a_folder_makes_nothing(tmp_path):
    (tmp_path / "there").mkdir()

    assert holder(tmp_path / "there") is None
    assert holder(tmp_path / "nowhere") is None
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]


def test_asking_at_the_wrong_moment_does_not_turn_a_server_away(tmp_path, monkeypatch):
    (tmp_path / "lock").touch()
    asking = os.open(tmp_path / "lock", os.O_RDONLY)
    fcntl.flock(asking, fcntl.LOCK_SH)
    monkeypatch.setattr("fleetcore.runtime.lease.time.sleep", lambda _: os.close(asking))

    Lease.take(tmp_path).release()


def test_a_fork_that_outlives_a_release_does_not_hold_the_folder(tmp_path):
    lease = Lease.take(tmp_path)
    inherited = [os.dup(descriptor) for descriptor in lease._descriptors]

    lease.release()

    Lease.take(tmp_path).release()
    for descriptor in inherited:
        os.close(descriptor)


def test_a_lease_that_is_dropped_frees_the_folder(tmp_path):
    lease = Lease.take(tmp_path)
    del lease
    gc.collect()

    Lease.take(tmp_path).release()


def test_a_manager_that_is_dropped_with_its_loop_frees_the_folder(tmp_path):
    async def cell():
        manager = IoTFleetManager(tmp_path / "data")
        await manager.register_device("a", "sensor")

    async def next_cell():
        async with IoTFleetManager(tmp_path / "data") as manager:
            return await manager.list_devices()

    asyncio.run(cell())
    gc.collect()

    assert [device.id for device in asyncio.run(next_cell()).items] == ["a"]


async def test_a_second_manager_of_one_process_is_told_what_to_do(tmp_path):
    async with IoTFleetManager(tmp_path / "data"):
        with pytest.raises(DataFolderInUse, match=r"This process .* has the data folder") as refused:
            await IoTFleetManager(tmp_path / "data").open()

    assert "close()" in refused.value.remedy
    async with IoTFleetManager(tmp_path / "data"):
        pass


async def test_the_lease_is_taken_whatever_the_store_is(tmp_path):
    """A store plugin that knows nothing of locks is not even opened in a folder that is taken."""
    (tmp_path / "plugin.py").write_text(
        """
from contextlib import asynccontextmanager
from attrs import frozen
from fleetcore import hookimpl, offer_storage

@frozen
class Config:
    pass

@asynccontextmanager
async def opening(config, context):
    raise AssertionError("opened")
    yield

@hookimpl
def fleetcore_storages():
    return [offer_storage("mine", Config, opening)]
"""
    )
    (tmp_path / "fleet.toml").write_text('[fleet]\nplugins = ["./plugin.py"]\n[storage]\nkind = "mine"\n')

    with another(tmp_path), pytest.raises(DataFolderInUse):
        await IoTFleetManager(tmp_path).open()

    with pytest.raises(PluginError, match="AssertionError: opened"):
        await IoTFleetManager(tmp_path).open()
    assert holder(tmp_path) is None


async def test_the_folder_of_a_store_that_lies_elsewhere_is_leased_too(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "fleet.toml").write_text(
            f'[fleet]\nname = "{name}"\n[storage]\npath = "{tmp_path / "store"}"\n'
        )

    async with IoTFleetManager(tmp_path / "one"):
        with pytest.raises(DataFolderInUse) as refused:
            await IoTFleetManager(tmp_path / "two").open()

    assert refused.value.ids["path"] == str(tmp_path / "store")
    assert holder(tmp_path / "store") is None


async def test_a_command_asks_the_lease_whether_a_server_runs(tmp_path):
    async with IoTFleetManager(tmp_path / "data"):
        pass
    with another(tmp_path / "data"):
        async with connect(tmp_path / "data") as caller:
            assert isinstance(caller, ControlClient)

    async with connect(tmp_path / "data") as caller:
        assert (await caller.run("list_devices", {}))["items"] == []


async def test_nothing_is_made_in_a_folder_without_a_fleet_that_may_not_be_made(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "fleet.toml").write_text("")

    with pytest.raises(Exception, match="without a fleet"):
        await IoTFleetManager(tmp_path / "photos", create=False).open()

    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["fleet.toml"]


def test_a_restore_holds_the_folder_until_all_of_it_is_there(tmp_path, monkeypatch):
    asyncio.run(_backed_up(tmp_path / "data", tmp_path / "copy"))
    held = []
    real = files.copy

    def watched(source, target):
        held.append(holder(tmp_path / "again"))
        real(source, target)

    monkeypatch.setattr(files, "copy", watched)

    restore(tmp_path / "copy", tmp_path / "again")

    assert held
    assert all(one is not None and one.here for one in held)
    assert holder(tmp_path / "again") is None


async def _backed_up(data, target):
    async with IoTFleetManager(data) as manager:
        await manager.back_up(str(target))
