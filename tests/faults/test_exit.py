"""How a process ends: with the script's status and in silence, whatever its threads are doing; a hang has a bound."""

import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from fleetcore.testing.patience import PATIENCE_S

SCRIPT = Path(__file__).parents[2] / "examples" / "script.py"

#: A detector in one file; BODY is what ``observe`` does. ``numpy.unique`` of integers is C++: a thread that Python
#: unwinds in it aborts the process.
_DETECTOR = """
import threading, time
import numpy as np
from contextlib import asynccontextmanager
from pathlib import Path

from attrs import frozen

from fleetcore import hookimpl, offer_detector
from fleetcore.interfaces import Detector
from fleetcore.model.anomaly import Findings

INTEGERS = np.arange(3000)[::-1].copy()


def busy(seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        np.unique(INTEGERS)


@frozen
class Config:
    pass


class At(Detector):
    def observe(self, batch, catalog):
        Path(__file__).with_name("inside").touch()
        BODY
        return Findings.none()

    def snapshot(self):
        return b""

    def restore(self, state):
        pass


@asynccontextmanager
async def open_at(config, context):
    yield At()


@hookimpl
def fleetcore_detectors():
    return [offer_detector("at", Config, open_at)]
"""
#: It stays in C++ when the script has ended, and ends by itself.
BUSY = "busy(1.5)"
#: It never ends, and takes the interpreter's lock all the time.
LOOPS = (
    "while True:\n            try:\n                busy(1)\n            except BaseException:\n                pass"
)
#: It never ends, in a call that does not return.
WAITS = "threading.Event().wait()"

_ASYNC = """
import asyncio, sys
from pathlib import Path
from fleetcore import IoTFleetManager

async def main():
    manager = IoTFleetManager(sys.argv[1])
    await manager.register_device("d-1", "sensor")
    await manager.collect_telemetry("d-1", "temperature", 25.5, "celsius")
    while not (Path(sys.argv[1]) / "inside").exists():
        await asyncio.sleep(0.01)
    return (await manager.list_device_latest_readings("d-1"))[0]["value"]

print(asyncio.run(main()))
"""
_SYNC = """
import sys, time
from pathlib import Path
from fleetcore import IoTFleetManager

manager = IoTFleetManager.sync(sys.argv[1])
manager.register_device("d-1", "sensor")
manager.collect_telemetry("d-1", "temperature", 25.5, "celsius")
while not (Path(sys.argv[1]) / "inside").exists():
    time.sleep(0.01)
print(manager.list_device_latest_readings("d-1")[0]["value"])
"""
_SYNC_IN_MEMORY = """
from fleetcore import IoTFleetManager

manager = IoTFleetManager.sync()
manager.register_device("d-1", "sensor")
for value in range(200):
    manager.collect_telemetry("d-1", "temperature", value, "celsius")
print(manager.list_device_latest_readings("d-1")[0]["value"])
"""
#: What ends by itself is waited for however busy the machine is: what is left behind after 5 or 10 s says so on stderr.
_PATIENT = f"from fleetcore import threads\nthreads.EXIT_S = threads.PLUGIN_EXIT_S = {PATIENCE_S}\n"
#: What a plugin's thread is given at exit, 5 s, shortened where a test waits for all of it.
_SHORT = f"{_PATIENT}threads.PLUGIN_EXIT_S = 0.5\n"
KINDS = pytest.mark.parametrize("script", [_ASYNC, _SYNC], ids=["async", "sync"])


@pytest.fixture
def folder(tmp_path):
    """A data folder whose detector does what is given."""

    def make(body):
        data = tmp_path / "data"
        data.mkdir(mode=0o700)
        (data / "at.py").write_text(_DETECTOR.replace("BODY", body))
        toml = '[fleet]\nname = "exit"\ndata = "."\nplugins = ["./at.py"]\n\n[detectors.at]\nkind = "at"\n'
        (data / "fleet.toml").write_text(toml)
        (data / "fleet.toml").chmod(0o600)
        return data

    return make


def run(script, *arguments):
    """Status, stdout, stderr of a script: a file, or text."""
    source = [str(script)] if isinstance(script, Path) else ["-c", script]
    done = subprocess.run(
        [sys.executable, "-W", "error", *source, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@contextmanager
def busy_loops(many):
    """Processes that want every core."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(many)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def _bad(runs):
    """What the example's script ended with, where it did not end well."""
    outcomes = [run(SCRIPT) for _ in range(runs)]
    return [(status, err) for status, _, err in outcomes if (status, err) != (0, "")]


def test_the_script_ends_well_beside_busy_loops():
    with busy_loops(2):
        assert _bad(5) == []


@pytest.mark.soak
def test_the_script_ends_well_two_hundred_times_beside_busy_loops():
    with busy_loops(2):
        assert _bad(200) == []


@KINDS
def test_a_detector_at_work_in_c_plus_plus_ends_before_the_interpreter_does(folder, script):
    assert run(_PATIENT + script, folder(BUSY)) == (0, "25.5\n", "")


@pytest.mark.soak
@KINDS
def test_a_detector_at_work_in_c_plus_plus_never_aborts_the_process(folder, script):
    data = folder(BUSY)

    assert {run(script.replace("d-1", f"d-{number}"), data)[0] for number in range(50)} == {0}


def test_a_blocking_manager_in_memory_that_is_never_closed_ends_in_silence():
    assert run(_PATIENT + _SYNC_IN_MEMORY) == (0, "199.0\n", "")


@KINDS
@pytest.mark.parametrize("body", [LOOPS, WAITS], ids=["loops", "waits"])
def test_a_detector_that_never_ends_is_named_and_left_behind(folder, script, body):
    status, out, err = run(_SHORT + script, folder(body))

    assert (status, out) == (0, "25.5\n")
    assert err.count("\n") == 1
    assert "the process ends without waiting any longer" in err
    assert "detector/at (" in err


@pytest.mark.parametrize(
    ("ending", "status", "said"),
    [
        ("sys.exit(3)", 3, ""),
        ("raise SystemExit(4)", 4, ""),
        ("sys.exit('in words')", 1, "in words"),
        ("raise ValueError('of the script')", 1, "ValueError: of the script"),
        ("raise KeyboardInterrupt", -signal.SIGINT, "KeyboardInterrupt"),
    ],
)
def test_the_status_is_the_scripts_where_a_thread_never_ends(folder, tmp_path, ending, status, said):
    more = (
        f"file = open({str(tmp_path / 'kept')!r}, 'w'); file.write('whole'); import atexit\n"
        f"atexit.register(print, 'once more'); {ending}\n"
    )

    ended, out, err = run(_SHORT + _ASYNC + more, folder(LOOPS))

    assert (ended, out) == (status, "25.5\nonce more\n")
    assert said in err
    assert "detector/at (" in err
    assert "terminate" not in err


#: What stopping may take, 25 s, shortened as above.
_SOON = "import fleetcore.cli.serve as command\ncommand.STOP_S = 2.0\n"
_THREAD = (
    _SOON + "import threading, time\nthreading.Thread(target=time.sleep, args=(10_000,), name='careless').start()\n"
)


async def test_serve_ends_where_a_plugin_starts_a_thread_that_never_ends(serving):
    async with serving(plugins={"careless": _THREAD}) as server:
        code = await server.signal(signal.SIGTERM, PATIENCE_S)

    log = (server.data / "log").read_text()
    assert code == 1
    assert "fleetcore: stopping took longer than 2 s and is cut off; still running: " in log
    assert "careless (" in log


async def test_serve_ends_where_a_plugin_blocks_the_event_loop(serving, until):
    blocking = f"""{_SOON}
import asyncio, time
from contextlib import asynccontextmanager
from pathlib import Path

from attrs import frozen

from fleetcore import hookimpl, offer_service


@frozen
class Config:
    pass


async def block():
    while not Path(__file__).with_name("ready").exists():
        await asyncio.sleep(0.01)
    Path(__file__).with_name("inside").touch()
    while True:
        time.sleep(0.01)


@asynccontextmanager
async def open_blocking(config, context, fleet):
    task = asyncio.create_task(block())
    yield task


@hookimpl
def fleetcore_services():
    return [offer_service("blocking", Config, open_blocking)]
"""
    async with serving("[services.blocking]\n", plugins={"blocking": blocking}) as server:
        (server.data / "ready").touch()
        await until(lambda: (server.data / "inside").exists())

        code = await server.signal(signal.SIGTERM, PATIENCE_S)

    assert code == 1
    assert "MainThread (" in (server.data / "log").read_text()


async def test_serve_ends_well_and_says_so_where_a_detector_never_ends(serving, senders, until):
    detector = _DETECTOR.replace("BODY", LOOPS)
    async with serving('[detectors.at]\nkind = "at"\n', plugins={"at": detector}) as server:
        async with senders(server, ("http",)) as (sender,):
            await until(lambda: sender.count > 3 and (server.data / "inside").exists())
            sender.stopping = True

        code = await server.signal(signal.SIGTERM, PATIENCE_S)

    assert code == 0
    assert "detector/at (" in (server.data / "log").read_text()
