"""One function that is loaded, and its instance: the memory and state that it keeps from batch to batch.

After a stop the instance is gone; the next batch has a fresh one.
"""

import ctypes
import struct
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import wasmtime

from fleetcore_edge.runner import abi
from fleetcore_edge.runner.calling import Calls
from fleetcore_edge.runner.engine import TICK_MS
from fleetcore_edge.runner.imports import Imports
from fleetcore_edge.runner.outputs import Block
from fleetcore_edge.runner.stopping import Stopped, of_trap
from fleetcore_edge.runner.verifier import FAULTS

#: Elements of a function's tables: what is called through pointers. A compiler makes one table.
_TABLE_ELEMENTS, _TABLES = 20_000, 2
#: The beginning of a block's header.
_BEGIN = struct.Struct("<5I")
#: The verifier's own: it ends after a bounded count of steps.
_VERIFY_FUEL, _VERIFY_TICKS = 1 << 40, 1 << 20


class Loaded(NamedTuple):
    """A function as the worker knows it."""

    name: str
    module: wasmtime.Module
    verifier: wasmtime.Module
    engine: wasmtime.Engine
    config: bytes
    secrets: Mapping[str, bytes]
    memory_mib: int
    time_ms: int
    fuel: int
    limits: dict[str, int]


class Instance:
    """One instance of a function, started and configured.

    Raises:
        Stopped: it cannot be started, or says no to its configuration; so do `place` and `run`, after which the
            instance must be closed.
    """

    def __init__(self, function: Loaded, begin: Callable[[], None]) -> None:
        self._function, self._begin = function, begin
        self._store = wasmtime.Store(function.engine)
        self._store.set_limits(
            memory_size=function.memory_mib << 20,
            table_elements=_TABLE_ELEMENTS,
            instances=2,
            tables=_TABLES,
            memories=1,
        )
        self._calls = Calls(self._store)
        self._ticks = -(-function.time_ms // TICK_MS) + 1
        self._imports = Imports(function.secrets)
        self._memory: wasmtime.Memory | None = None
        self._view, self._view_of = memoryview(b""), (0, 0)
        self._room = self._room_at = 0
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    @property
    def memory_kib(self) -> int:
        """Its linear memory."""
        return 0 if self._memory is None else self._calls.memory(self._memory)[1] >> 10

    @property
    def log(self) -> list[str]:
        """What it wrote since the last batch began."""
        return self._imports.log

    def close(self) -> None:
        """Frees it. The store is closed by hand: its imports refer to it, and wasmtime to them."""
        self._imports.memory = self._view = memoryview(b"")
        self._store.close()

    def place(self, size: int) -> memoryview:
        """Where the next block of that size goes, within the function's memory."""
        if size > self._room:
            self._allow()
            at = self._called(self._alloc, size) & 0xFFFFFFFF
            self._look()
            if not at:
                raise Stopped("out_of_memory", f"fc_alloc has no place for a batch of {size} bytes")
            if at % 8 or at + size > len(self._view):
                raise Stopped("rubbish", f"fc_alloc gives {at} for {size} bytes, not a place in its memory")
            self._room, self._room_at = size, at
        return self._view[self._room_at : self._room_at + size]

    def run(self, size: int, now_ms: int) -> tuple[Block, bool]:
        """Handles the block that was placed: what it puts out, and whether the series are the input's."""
        at = self._room_at
        _, series, series_at, _, index_at = _BEGIN.unpack_from(self._view, at)
        named = bytes(self._view[at + series_at : at + index_at])
        self._imports.now_ms = now_ms
        self._imports.log = []
        self._allow()
        packed = self._called(self._run, at, size)
        self._look()
        if packed < 0:
            raise self._failed(packed)
        block = Block(self._view, packed & 0xFFFFFFFF, packed >> 32, self._function.limits)
        if block.readings:
            self._verify(block)
        return block, block.holds(series, named, at + series_at)

    def fuel_used(self) -> int:
        """Of the last batch, before its output was looked through."""
        return self._fuel

    def _start(self) -> None:
        function, store = self._function, self._store
        self._allow()
        try:
            instance = wasmtime.Instance(store, function.module, self._imports.given(store, function.module))
            exports = instance.exports(store)
            memory = exports[abi.MEMORY]
            assert isinstance(memory, wasmtime.Memory)
            self._memory = memory
            checker = wasmtime.Instance(store, function.verifier, [memory])
        except wasmtime.Trap as trap:
            raise of_trap(trap, 0, function.memory_mib << 10) from None
        except wasmtime.WasmtimeError as error:
            raise Stopped("resources", f"It cannot be started: {' '.join(str(error).split())[:300]}") from None
        self._check = _function(checker.exports(store), "check")
        self._alloc, self._run = _function(exports, abi.ALLOC), _function(exports, abi.RUN)
        self._look()
        if abi.INITIALIZE in exports:
            self._called(_function(exports, abi.INITIALIZE))
        version = self._called(_function(exports, abi.ABI)) & 0xFFFFFFFF
        if version != abi.VERSION:
            raise Stopped("abi_unsupported", f"It has version {version} of the ABI; the runner has {abi.VERSION}")
        if abi.CONFIGURE in exports:
            place = self.place(len(function.config))
            place[:] = function.config
            status = self._called(_function(exports, abi.CONFIGURE), self._room_at, len(function.config)) & 0xFFFFFFFF
            self._look()
            if status:
                raise Stopped("config_refused", f"fc_configure gives {status}{self._last_line()}")

    def _allow(self) -> None:
        self._begin()
        self._calls.allow(self._function.fuel, self._ticks)

    def _called(self, function: wasmtime.Func, *arguments: int) -> int:
        try:
            return self._calls(function, *arguments)
        except wasmtime.Trap as trap:
            raise of_trap(trap, self.memory_kib, self._function.memory_mib << 10) from None
        finally:
            self._fuel = self._function.fuel - self._calls.fuel()

    def _failed(self, status: int) -> Stopped:
        if status == abi.NO_MEMORY:
            return Stopped("out_of_memory", f"It says that its {self.memory_kib} KiB of memory do not suffice")
        return Stopped("failed", f"fc_run gives the status {status}{self._last_line()}")

    def _last_line(self) -> str:
        return f": {self.log[-1]}" if self.log else ""

    def _verify(self, block: Block) -> None:
        self._calls.allow(_VERIFY_FUEL, _VERIFY_TICKS)
        fault = self._calls(self._check, block.index, block.time, block.value, block.readings, block.series)
        if fault & 0xFFFFFFFF:
            raise Stopped("rubbish", f"its readings have {FAULTS[fault & 0xFFFFFFFF]}")

    def _look(self) -> None:
        """The memory may have grown, and moved."""
        assert self._memory is not None
        at, size = self._calls.memory(self._memory)
        if (at, size) != self._view_of:
            self._view = memoryview((ctypes.c_ubyte * size).from_address(at)).cast("B") if size else memoryview(b"")
            self._view_of = (at, size)
            self._imports.memory = self._view


def _function(exports: Mapping[str, object], name: str) -> wasmtime.Func:
    """An export whose type `contract` has checked: a call does not look at it again."""
    found = exports[name]
    assert isinstance(found, wasmtime.Func)
    return found


def processor_us() -> int:
    """Processor time of this thread."""
    return time.thread_time_ns() // 1000
