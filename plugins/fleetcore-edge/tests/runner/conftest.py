"""Functions written in WAT, and runners that are opened with any settings; compiled modules are shared by the tests."""

import hashlib
from array import array
from contextlib import AsyncExitStack

import pytest
import wasmtime
from attrs import evolve
from fleetcore_edge.runner.records import Batch, Function, Resources, RunnerSettings
from fleetcore_edge.runner.runner import open_runner

from fleetcore.testing import peers

pytest_runtest_setup = peers.require

#: A function that answers with its input; a test replaces what it is about.
PARTS = {
    "imports": "",
    "memory": '(memory (export "memory") 4)',
    "abi": '(func (export "fc_abi") (result i32) (i32.const 1))',
    "alloc": '(func (export "fc_alloc") (param i32) (result i32) (i32.const 1024))',
    "configure": "",
    "run": """(func (export "fc_run") (param $at i32) (param $size i32) (result i64)
      (i64.or (i64.extend_i32_u (local.get $at)) (i64.shl (i64.extend_i32_u (local.get $size)) (i64.const 32))))""",
    "more": "",
}

#: What echoes the input after some code has run.
ECHO = "(i64.or (i64.extend_i32_u (local.get $at)) (i64.shl (i64.extend_i32_u (local.get $size)) (i64.const 32)))"


def running(code, result=ECHO):
    return f'(func (export "fc_run") (param $at i32) (param $size i32) (result i64) {code} {result})'


def module(**parts):
    return bytes(wasmtime.wat2wasm("(module " + " ".join({**PARTS, **parts}.values()) + ")"))


@pytest.fixture
def wat():
    return running


@pytest.fixture
def make(tmp_path):
    """A function of a name, from parts of WAT or from a module's bytes."""

    def made(name="echo", content=None, resources=None, **more):
        parts = {key: more.pop(key) for key in list(more) if key in PARTS}
        content = module(**parts) if content is None else content
        file = tmp_path / f"{name}.wasm"
        file.write_bytes(content)
        given = {"cpu_percent": 1000.0, "time_ms": 500, "fuel": 10**12, **(resources or {})}
        return Function(
            name=name,
            version="1",
            sha256=hashlib.sha256(content).hexdigest(),
            module=file,
            resources=Resources(**given),
            **more,
        )

    return made


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """A folder of compiled modules that the tests share."""
    return tmp_path_factory.mktemp("compiled") / "code"


@pytest.fixture
async def opened(compiled):
    """Opens a runner with settings of its own."""
    async with AsyncExitStack() as stack:

        async def open_with(folder=compiled, clock=None, **settings):
            return await stack.enter_async_context(
                open_runner(folder, evolve(RunnerSettings(nice=0), **settings), clock)
            )

        yield open_with


@pytest.fixture
async def runner(opened):
    return await opened()


@pytest.fixture
def readings():
    """A batch of so many readings of two series, 1 s apart."""

    def made(count=10, begin=1_700_000_000_000):
        return Batch(
            series=[("d1", "temperature", "°C"), ("d2", "temperature", "°C")],
            at=array("I", [number % 2 for number in range(count)]),
            time=array("q", [begin + 1000 * number for number in range(count)]),
            value=array("d", [number / 2 for number in range(count)]),
        )

    return made
