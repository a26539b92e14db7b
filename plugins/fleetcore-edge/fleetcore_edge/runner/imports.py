"""What the runner gives to a function: a log, the time of the batch, its secrets. Nothing else is within its reach."""

from collections.abc import Callable, Mapping

import wasmtime

from fleetcore_edge.runner import abi

#: Of a batch.
_LOG_LINES, _LOG_BYTES = 64, 1024


class Imports:
    """The imports of one instance.

    Args:
        secrets: names to values.

    Attributes:
        memory: the function's memory; empty until it has one.
        now_ms: what ``fleetcore.now`` gives.
        log: the lines of this batch.
    """

    def __init__(self, secrets: Mapping[str, bytes]) -> None:
        self._secrets = secrets
        self.memory = memoryview(b"")
        self.now_ms = 0
        self.log: list[str] = []

    def given(self, store: wasmtime.Store, module: wasmtime.Module) -> list[wasmtime.Func]:
        """One for each import of a module, in its order; `contract` has checked that there are no others."""
        offered: dict[str, Callable[..., int | None]] = {"log": self._log, "now": self._now, "secret": self._secret}
        made: list[wasmtime.Func] = []
        for wanted in module.imports:
            kind = wasmtime.FuncType(
                *([getattr(wasmtime.ValType, name)() for name in part] for part in abi.IMPORTS[wanted.name or ""])
            )
            made.append(wasmtime.Func(store, kind, offered[wanted.name or ""]))
        return made

    def _log(self, at: int, size: int) -> None:
        if len(self.log) < _LOG_LINES:
            self.log.append(str(self._bytes(at, min(size & 0xFFFFFFFF, _LOG_BYTES)), "utf-8", "replace"))

    def _now(self) -> int:
        return self.now_ms

    def _secret(self, name_at: int, name_len: int, into: int, room: int) -> int:
        """Copies a secret; its length, or -1 where there is none or the room is too small."""
        name = str(self._bytes(name_at, min(name_len & 0xFFFFFFFF, _LOG_BYTES)), "utf-8", "replace")
        value, place = self._secrets.get(name), self._bytes(into, room)
        if value is None or len(value) > len(place):
            return -1
        place[: len(value)] = value
        return len(value)

    def _bytes(self, at: int, size: int) -> memoryview:
        """A part of the memory; shorter where it lies outside."""
        begin = at & 0xFFFFFFFF
        return self.memory[begin : begin + (size & 0xFFFFFFFF)]
