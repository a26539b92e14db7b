"""Functions of the edge: the deadband of plugins/fleetcore-edge/functions through the runner, in a process of its own.

Against the same module called by wasmtime's Python package in this process, with the same engine, the same copies in
and out, and none of the runner's checks; against the same deadband in Python and in numpy; and against a bare round
trip on a socket. The batches are those of ten series.
"""

import asyncio
import hashlib
import os
import random
import socket
import tempfile
import time
from array import array
from collections.abc import Callable, Coroutine
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import wasmtime
from fleetcore_edge.runner import abi, frames
from fleetcore_edge.runner.batches import Encoder
from fleetcore_edge.runner.engine import make_engine
from fleetcore_edge.runner.instance import Instance, Loaded
from fleetcore_edge.runner.records import Batch, Function, Resources, RunnerSettings
from fleetcore_edge.runner.runner import Runner, open_runner
from fleetcore_edge.runner.verifier import TEXT

from benchmarks.measure import Row, at_least, median_ratio

FUNCTIONS = Path(__file__).parents[1] / "plugins" / "fleetcore-edge" / "functions"
_SERIES, _BAND, _BEGIN = 10, 1.5, 1_700_000_000_000
_IN_FLIGHT = 8
_CONFIG = b'{"deadband": 1.5}'
#: Round trips in the figure of one.
_ROUND_TRIPS = 200


def run(*, quick: bool = False) -> list[Row]:
    """The rows of this benchmark."""
    return asyncio.run(_run(5 if quick else 15))


async def _run(rounds: int) -> list[Row]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        async with open_runner(Path(folder), RunnerSettings(nice=0)) as runner:
            for size in (1_000, 10_000):
                await runner.load(_function("deadband"))
                rows += await _throughput(runner, size, rounds)
            rows += await _round_trip(runner, 4 * rounds)
        async with open_runner(Path(folder), RunnerSettings(nice=0)) as runner:
            rows += await _memory(runner)
    return rows


def _function(name: str, module: str = "deadband") -> Function:
    file = FUNCTIONS / f"{module}.wasm"
    return Function(
        name=name, version="1", sha256=hashlib.sha256(file.read_bytes()).hexdigest(), module=file, config=_CONFIG,
        resources=Resources(cpu_percent=1e6, fuel=10**12, time_ms=10_000),
    )  # fmt: skip


def _batch(size: int) -> Batch:
    chance = random.Random(f"batch {size}")
    return Batch(
        series=[(f"d{number}", "temperature", "°C") for number in range(_SERIES)],
        at=array("I", [number % _SERIES for number in range(size)]),
        time=array("q", [_BEGIN + number for number in range(size)]),
        value=array("d", [chance.gauss(0, 0.9) for _ in range(size)]),
    )


async def _throughput(runner: Runner, size: int, rounds: int) -> list[Row]:
    batch, direct = _batch(size), Direct()
    count = max(_IN_FLIGHT, 40_000 // size)
    figures: dict[str, list[float]] = {name: [] for name in ("in flight", "alone", "direct", "python", "numpy")}
    assert (await runner.run("deadband", batch)).readings.value == direct.run(batch)[2]
    for _ in range(rounds):
        figures["in flight"].append(await _timed(lambda: _in_flight(runner, batch, count), size * count))
        figures["alone"].append(await _timed(lambda: _alone(runner, batch, count), size * count))
        for name, each in (("direct", direct.run), ("python", Python().run), ("numpy", Numpy().run)):
            begun = time.perf_counter()
            for _ in range(count if name == "direct" else 2):
                each(batch)
            took = time.perf_counter() - begun
            figures[name].append(size * (count if name == "direct" else 2) / took / 1e6)
    name = f"deadband on batches of {size:,} readings"
    ours, alone = figures["in flight"], figures["alone"]
    unit = "M readings/s"
    return [
        at_least(f"{name}, {_IN_FLIGHT} under way", ours, "wasmtime-py in this process", figures["direct"], unit, 0.8),
        _compared(f"{name}, one after the other", alone, "wasmtime-py in this process", figures["direct"], unit),
        _compared(f"{name}, {_IN_FLIGHT} under way", ours, "the same in numpy", figures["numpy"], unit),
        _compared(f"{name}, {_IN_FLIGHT} under way", ours, "the same in Python", figures["python"], unit),
    ]


def _compared(name: str, ours: list[float], against: str, theirs: list[float], unit: str) -> Row:
    text = f"{against} ({median(theirs):.3g} {unit})"
    return Row(name=name, value=median(ours), unit=unit, against=text, ratio=median_ratio(ours, theirs))


async def _timed(work: Callable[[], Coroutine[Any, Any, None]], readings: int) -> float:
    begun = time.perf_counter()
    await work()
    return readings / (time.perf_counter() - begun) / 1e6


async def _alone(runner: Runner, batch: Batch, count: int) -> None:
    for _ in range(count):
        await runner.run("deadband", batch)


async def _in_flight(runner: Runner, batch: Batch, count: int) -> None:
    for begun in range(0, count, _IN_FLIGHT):
        await asyncio.gather(*(runner.run("deadband", batch) for _ in range(min(_IN_FLIGHT, count - begun))))


async def _round_trip(runner: Runner, rounds: int) -> list[Row]:
    batch = _batch(10)
    alone, packed, bare, call = [], [], [], []
    echo = Echo(sum(memoryview(piece).nbytes for piece in Encoder(100, 100).request(1, batch, 0)))
    for _ in range(rounds):
        used = runner.usage()["deadband"].ms
        begun = time.perf_counter()
        await _alone(runner, batch, _ROUND_TRIPS)
        alone.append((time.perf_counter() - begun) / _ROUND_TRIPS * 1e6)
        call.append((runner.usage()["deadband"].ms - used) / _ROUND_TRIPS * 1e3)
        begun = time.perf_counter()
        await _in_flight(runner, batch, _ROUND_TRIPS)
        packed.append((time.perf_counter() - begun) / _ROUND_TRIPS * 1e6)
        begun = time.perf_counter()
        for _ in range(_ROUND_TRIPS):
            echo.round_trip()
        bare.append((time.perf_counter() - begun) / _ROUND_TRIPS * 1e6)
    echo.close()
    best = min(alone)
    against = f"a blocking socket's bare round trip ({median(bare):.3g} us)"
    return [
        Row(
            name="a batch of 10 readings to the process and back", value=median(alone), unit="us", against=against,
            ratio=median_ratio(alone, bare), goal="≤ 60 us", met=median(alone) <= 60,
        ),
        Row(name="the same, the best of the rounds", value=best, unit="us"),
        Row(
            name=f"the same, {_IN_FLIGHT} under way", value=median(packed), unit="us", goal="≤ 60 us",
            met=median(packed) <= 60,
        ),
        Row(name="the same, processor time within the worker: the call with its checks", value=median(call), unit="us"),
        Row(name="the call with its checks, over and over in this process", value=_called(batch, rounds), unit="us"),
    ]  # fmt: skip


def _called(batch: Batch, rounds: int) -> float:
    """Microseconds of a call as the worker makes it, with nothing else in between."""
    engine, file = make_engine(), FUNCTIONS / "deadband.wasm"
    names = ("output_bytes", "output_series", "output_readings", "output_alerts", "output_commands")
    function = Loaded(
        name="deadband", module=wasmtime.Module.from_file(engine, file), verifier=wasmtime.Module(engine, TEXT),
        engine=engine, config=_CONFIG, secrets={}, memory_mib=16, time_ms=10_000, fuel=10**12,
        limits=dict.fromkeys(names, 1 << 20),
    )  # fmt: skip
    instance = Instance(function, lambda: None)
    block = b"".join(Encoder(100, 100).request(1, batch, 0))[frames.HEAD.size + frames.NOW.size :]
    took = []
    for _ in range(rounds):
        begun = time.perf_counter()
        for _ in range(_ROUND_TRIPS):
            instance.place(len(block))[:] = block
            instance.run(len(block), 0)
        took.append((time.perf_counter() - begun) / _ROUND_TRIPS * 1e6)
    instance.close()
    return median(took)


async def _memory(runner: Runner) -> list[Row]:
    for number in range(10):
        name = ("deadband", "vibration", "threshold", "smoothing")[number % 4]
        await runner.load(_function(f"{name}{number}", name) if name == "deadband" else _other(name, number))
        await runner.run(f"{name}{number}", _batch(1_000))
    private, resident = _held(runner.pid or 0)
    name = "the worker with ten functions"
    return [
        Row(name=f"{name}: private memory", value=private, unit="MiB", goal="≤ 40", met=private <= 40),
        Row(name="the same, resident", value=resident, unit="MiB", goal="≤ 60", met=resident <= 60),
    ]


def _held(pid: int) -> tuple[float, float]:
    """Private and resident memory of a process, in MiB."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        key, value, _ = line.split()
        found[key] = int(value) / 1024
    return found["Private_Clean:"] + found["Private_Dirty:"], found["Rss:"]


def _other(name: str, number: int) -> Function:
    file = FUNCTIONS / f"{name}.wasm"
    return Function(
        name=f"{name}{number}", version="1", sha256=hashlib.sha256(file.read_bytes()).hexdigest(), module=file,
        config=b'{"above": 80}', may=frozenset({"readings", "alerts"}), resources=Resources(cpu_percent=1e6),
    )  # fmt: skip


class Direct:
    """The module called by wasmtime's package, as its documentation shows."""

    def __init__(self) -> None:
        engine = make_engine()
        self._store = wasmtime.Store(engine)
        self._store.set_fuel(1 << 60)
        self._store.set_epoch_deadline(1 << 40)
        module = wasmtime.Module.from_file(engine, FUNCTIONS / "deadband.wasm")
        kind = wasmtime.FuncType([wasmtime.ValType.i32(), wasmtime.ValType.i32()], [])
        imports = [wasmtime.Func(self._store, kind, lambda *_: None)]  # the log
        exports = wasmtime.Instance(self._store, module, imports).exports(self._store)
        self._exports, self._memory = exports, exports["memory"]
        place = self._call("fc_alloc", len(_CONFIG))
        assert isinstance(self._memory, wasmtime.Memory)
        self._memory.write(self._store, _CONFIG, place)
        self._call("fc_configure", place, len(_CONFIG))
        self._encoder = Encoder(100, 100_000)

    def _call(self, name: str, *arguments: int) -> int:
        function = self._exports[name]
        assert isinstance(function, wasmtime.Func)
        return int(function(self._store, *arguments))

    def run(self, batch: Batch) -> tuple["array[int]", "array[int]", "array[float]"]:
        """Index, time and value of what goes on."""
        memory, store = self._memory, self._store
        assert isinstance(memory, wasmtime.Memory)
        block = bytearray().join(self._encoder.request(1, batch, 0))[frames.HEAD.size + frames.NOW.size :]
        place = self._call("fc_alloc", len(block))
        memory.write(store, block, place)
        answer = self._call("fc_run", place, len(block)) & 0xFFFFFFFF
        head = abi.HEADER.unpack(memory.read(store, answer, answer + abi.HEADER.size))
        count, index, times, values = head[3], array("I"), array("q"), array("d")
        index.frombytes(memory.read(store, answer + head[4], answer + head[4] + 4 * count))
        times.frombytes(memory.read(store, answer + head[5], answer + head[5] + 8 * count))
        values.frombytes(memory.read(store, answer + head[6], answer + head[6] + 8 * count))
        return index, times, values


class Python:
    """The deadband in Python."""

    def __init__(self) -> None:
        self._last: dict[int, float] = {}

    def run(self, batch: Batch) -> tuple["array[int]", "array[int]", "array[float]"]:
        """Index, time and value of what goes on."""
        last, index, times, values = self._last, array("I"), array("q"), array("d")
        for at, now, value in zip(batch.at, batch.time, batch.value, strict=True):
            before = last.get(at)
            if before is None or abs(value - before) > _BAND:
                last[at] = value
                index.append(at)
                times.append(now)
                values.append(value)
        return index, times, values


class Numpy:
    """The deadband in numpy: per series from one reading that goes on to the next, which is looked for in pieces."""

    def __init__(self) -> None:
        self._last: dict[int, float] = {}

    def run(self, batch: Batch) -> tuple["np.ndarray[Any, Any]", ...]:
        """Index, time and value of what goes on."""
        index, times = np.frombuffer(batch.at, dtype=np.uint32), np.frombuffer(batch.time, dtype=np.int64)
        values, kept = np.frombuffer(batch.value), []
        order = np.argsort(index, kind="stable")
        for places in np.split(order, np.searchsorted(index[order], np.arange(1, _SERIES))):
            mine, at = values[places], 0
            last = self._last.get(int(index[places[0]]), np.inf)
            while at < len(mine):
                changed = np.abs(mine[at : at + 64] - last) > _BAND
                step = int(changed.argmax())
                if not changed[step]:
                    at += 64
                    continue
                at += step
                last = float(mine[at])
                kept.append(int(places[at]))
                at += 1
            self._last[int(index[places[0]])] = last
        kept.sort()
        return index[kept], times[kept], values[kept]


class Echo:
    """A process that answers each request of a size with a small answer, on a blocking socket."""

    def __init__(self, size: int) -> None:
        self._ours, theirs = socket.socketpair()
        self._size = size
        self._pid = os.fork()
        if not self._pid:
            self._ours.close()
            while theirs.recv(size):
                theirs.send(bytes(100))
            os._exit(0)
        theirs.close()

    def round_trip(self) -> None:
        """There and back."""
        self._ours.send(bytes(self._size))
        self._ours.recv(100)

    def close(self) -> None:
        """Ends it."""
        self._ours.close()
        os.waitpid(self._pid, 0)
