"""The command line in this process: the words, and the exit code with what was printed."""

import asyncio
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest
from attrs import frozen

from fleetcore import IoTFleetManager
from fleetcore.cli.root import run as run_command
from fleetcore.frontends.control import serve_control
from fleetcore.testing.patience import PATIENCE_S
from tests.cli.terminals import Terminal


@frozen
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(capfd):
    """``run("device", "list")`` in this process."""

    def go(*words):
        capfd.readouterr()
        try:
            code = run_command([str(word) for word in words])
        except SystemExit as end:
            code = end.code
        out, err = capfd.readouterr()
        return Done(code, out, err)

    return go


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A data folder as ``init`` makes it; each test works on a copy."""
    folder = tmp_path_factory.mktemp("made") / "data"
    assert run_command(["init", str(folder), "--name", "lab"]) == 0
    return folder


@pytest.fixture
def data(made, tmp_path):
    """A fresh data folder."""
    return shutil.copytree(made, tmp_path / "data")


@pytest.fixture
def fleet(run, data):
    """``fleet("device", "list")`` on that folder."""
    return lambda *words: run(*words, "--data", data)


@pytest.fixture
def process():
    """A real ``fleetcore`` of its own."""

    def go(*words, timeout=PATIENCE_S, **options):
        command = [sys.executable, "-m", "fleetcore", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, **options)

    return go


@pytest.fixture
def terminal():
    """``terminal(80, 24, "device", "list")``: a real ``fleetcore`` on a terminal."""

    with ExitStack() as stack:

        def go(columns, rows, *words, **environment):
            made = Terminal(columns, rows, *words, **environment)
            stack.callback(made.close)
            return made

        yield go


@pytest.fixture
def served():
    """``with served(data): …``: a server of a folder, which answers on its socket alone."""

    @contextmanager
    def go(data):
        with ThreadPoolExecutor(1) as thread:
            manager, stop, started = IoTFleetManager(data), threading.Event(), threading.Event()

            async def serve():
                async with manager, serve_control(manager, data):
                    started.set()
                    while not stop.is_set():
                        await asyncio.sleep(0.02)

            ended = thread.submit(asyncio.run, serve())
            try:
                while not started.wait(0.05):
                    assert not ended.done(), ended.exception()
                yield
            finally:
                stop.set()
                ended.result(PATIENCE_S)

    return go


@pytest.fixture(scope="session")
def full(made, tmp_path_factory):
    """Such a folder with two devices and readings; each test works on a copy."""
    data = shutil.copytree(made, tmp_path_factory.mktemp("full") / "data")

    async def fill():
        async with IoTFleetManager(data) as manager:
            await manager.register_device("th-1", "thermometer", {"tags": ["roof"]})
            await manager.register_device("th-2", "thermometer")
            for i in range(60):
                await manager.collect_telemetry("th-1", "temperature", 20 + i / 10, time=1_780_000_000_000 + i * 1000)

    asyncio.run(fill())
    return data


@pytest.fixture
def filled(full, tmp_path):
    """The folder with two devices and readings."""
    return shutil.copytree(full, tmp_path / "data")
