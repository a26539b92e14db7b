"""Health is measured on the path it speaks of: a store that ended, a listener that is not open, a task that fails.

What ends by an error is seen: callers get it, the server says that it is not ready or ends, and nothing hangs.
"""

import asyncio
import signal
import socket

import pytest

from fleetcore import IoTFleetManager
from fleetcore.builtin.sqlite import readers
from fleetcore.builtin.sqlite.commit import CommitChange
from fleetcore.errors import FleetError, StorageError
from fleetcore.runtime import readiness
from fleetcore.runtime.supervise import Supervisor
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.patience import PATIENCE_S

#: Loaded with the fleet: once the file is there, what the store shows of a commit fails, as without memory.
_BREAKS_THE_WRITER = """\
from pathlib import Path

from fleetcore import hookimpl
from fleetcore.builtin.sqlite.commit import CommitChange

real = CommitChange.publish


def publish(self):
    if (Path(__file__).parent / "break").exists():
        raise MemoryError("no room")
    real(self)


CommitChange.publish = publish


@hookimpl
def fleetcore_detectors():
    return []
"""


async def test_a_writer_that_ends_is_told_to_every_caller_and_shown(tmp_path, monkeypatch):
    manager = IoTFleetManager(tmp_path / "data")
    fleet = await manager.open()
    await manager.register_device("d", "sensor")
    assert await fleet.readiness.storage() == ""

    def broken(self):
        raise MemoryError("no room")

    monkeypatch.setattr(CommitChange, "publish", broken)
    async with asyncio.timeout(PATIENCE_S):
        answers = await asyncio.gather(
            *(manager.register_device(f"d{n}", "sensor") for n in range(20)), return_exceptions=True
        )
        with pytest.raises(FleetError, match="writer ended by MemoryError"):
            await manager.collect_telemetry("d", "t", 1.0)
        waiting = await fleet.readiness.waiting_for()
        await manager.close()
    assert {type(answer) for answer in answers} == {StorageError}
    assert "MemoryError" in waiting["storage"]


async def test_a_reader_that_ends_is_told_to_every_caller(tmp_path, monkeypatch):
    async with IoTFleetManager(tmp_path / "data") as manager:
        await manager.register_device("d", "sensor")
        fleet = await manager.open()
        real = readers.deliver

        def broken(outcomes):
            if isinstance(outcomes[0][2], StorageError):
                real(outcomes)
                return
            raise MemoryError("no room")

        monkeypatch.setattr(readers, "deliver", broken)
        async with asyncio.timeout(PATIENCE_S):
            for _ in range(4):
                with pytest.raises(StorageError, match="ended by MemoryError"):
                    await fleet.storage.get("device", "d")
        assert "MemoryError" in (await fleet.readiness.waiting_for())["storage"]
        monkeypatch.setattr(readers, "deliver", real)


async def test_a_server_whose_writer_ended_ends_too_with_the_reason(serving):
    async with serving(plugins={"breaks": _BREAKS_THE_WRITER}) as server:
        (server.data / "break").touch()
        code, _, err = await server.command("device", "register", "d", "--type", "sensor")

        assert code != 0
        assert "writer ended" in err
        assert await server.ended() not in (0, -signal.SIGKILL)
        log = (server.data / "log").read_text()
    assert log.rstrip().splitlines()[-1].startswith("fleetcore: The store's writer ended by MemoryError: no room")


async def test_a_listener_that_cannot_open_is_not_ready_and_comes_once_it_can(serving, until):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        more = f'\n[protocols.second]\nkind = "mqtt"\nlisten = "mqtts://127.0.0.1:{port}"\n'
        async with serving(more, ready=False) as server:
            said = f"not ready: [protocols.second] mqtts://127.0.0.1:{port} cannot be bound"
            await until(lambda: said in (server.data / "log").read_text())
            code, out, _ = await server.command("doctor")
            assert code == 1
            assert "✗ protocol second: not ready" in out
            taken.close()

            await server.ready()

            code, out, _ = await server.command("doctor")
            assert (code, "not ready" in out) == (0, False), out


async def test_a_store_that_stalls_is_not_ready_and_is_again(in_process, monkeypatch):
    monkeypatch.setattr(readiness, "_PROBE_S", 0.2)
    monkeypatch.setattr(readiness, "_FRESH_S", 0.0)
    async with in_process() as server:
        server.disk.stall()
        assert "did not complete a commit" in (await server.fleet.readiness.waiting_for())["storage"]
        server.disk.heal()
        assert "storage" not in await server.fleet.readiness.waiting_for()


async def test_a_periodic_task_that_works_again_begins_anew_with_its_back_off():
    clock = MovableClock()
    supervisor = Supervisor(clock)
    broken = True
    runs = []

    async def work():
        runs.append(clock.monotonic_s())
        if broken:
            raise ValueError("no")

    supervisor.every("work", 1.0, work)
    for _ in range(6):
        await clock.advance(40)
    state = supervisor.states["work"]
    assert state.failures >= 4
    broken = False
    await clock.advance(40)
    await clock.advance(2)
    assert (state.failures, state.error) == (0, "")
    broken = True
    await clock.advance(1.1)
    assert state.failures == 1
    await supervisor.close()
