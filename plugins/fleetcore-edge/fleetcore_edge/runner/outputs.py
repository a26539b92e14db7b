"""What a function put out, taken from its memory. Each offset, length, number and text is checked before it is used."""

import json
import math
from typing import Any

from fleetcore_edge.runner import abi
from fleetcore_edge.runner.stopping import Stopped
from fleetcore_edge.runner.verifier import LATEST_MS

_WRAP = 0xFFFFFFFF
#: Bytes of a name, of a message, of a command's arguments.
_NAME_BYTES, _MESSAGE_BYTES, _ARGUMENT_BYTES = 256, 1024, 4096


class Block:
    """One block in a function's memory.

    Args:
        memory: all of it.
        at, size: where the function says that the block is.
        limits: ``output_bytes``, ``output_series``, ``output_readings``, ``output_alerts``, ``output_commands``.

    Raises:
        Stopped: ``rubbish``, or ``output_too_large``; so do its methods.
    """

    def __init__(self, memory: memoryview, at: int, size: int, limits: dict[str, int]) -> None:
        if size < abi.HEADER.size or at + size > len(memory):
            raise _rubbish(f"the output of {size} bytes at {at} lies outside the memory of {len(memory)} bytes")
        self._memory, self._base = memory, at
        fields = abi.HEADER.unpack_from(memory, at)
        version, self.series, self.series_at, count, index, time, value, *more = fields
        self.readings = count
        self.alerts, self.alerts_at, self.commands, self.commands_at = more
        if version != abi.VERSION:
            raise _rubbish(f"the output begins with {version}, not with the ABI's version {abi.VERSION}")
        if (
            self.series > limits["output_series"]
            or count > limits["output_readings"]
            or self.alerts > limits["output_alerts"]
            or self.commands > limits["output_commands"]
        ):
            counts = f"{self.series} series, {count} readings, {self.alerts} alerts, {self.commands} commands"
            raise Stopped("output_too_large", f"It puts out {counts}")
        self.index = self._place(index, 4 * count, "the column of indexes")
        self.time = self._place(time, 8 * count, "the column of times")
        self.value = self._place(value, 8 * count, "the column of values")
        self._left = limits["output_bytes"] - 20 * count

    def columns(self) -> list[memoryview]:
        """Index, time and value as they lie in the memory."""
        count, memory = self.readings, self._memory
        return [
            memory[self.index : self.index + 4 * count],
            memory[self.time : self.time + 8 * count],
            memory[self.value : self.value + 8 * count],
        ]

    def holds(self, series: int, region: bytes, at: int) -> bool:
        """Whether the series are still those of a region of the input."""
        begin = (self._base + self.series_at) & _WRAP
        return self.series == series and begin == at and self._memory[at : at + len(region)] == region

    def named_series(self) -> list[tuple[str, str, str]]:
        """Device, metric and unit of each series."""
        found = []
        for entry in self._entries(abi.SERIES_ENTRY, self.series, self.series_at, "the table of series"):
            _, device_at, device_len, metric_at, metric_len, unit_at, unit_len = entry
            device = self._text(device_at, device_len, _NAME_BYTES, "a device")
            metric = self._text(metric_at, metric_len, _NAME_BYTES, "a metric")
            if not metric:
                raise _rubbish("a series has an empty metric")
            found.append((device, metric, self._text(unit_at, unit_len, _NAME_BYTES, "a unit")))
        return found

    def named_alerts(self) -> list[tuple[Any, ...]]:
        """Device, metric, severity, kind, message, value and time of each alert."""
        found = []
        for entry in self._entries(abi.ALERT_ENTRY, self.alerts, self.alerts_at, "the table of alerts"):
            *texts, severity, value, time = entry
            device = self._text(texts[0], texts[1], _NAME_BYTES, "a device")
            metric = self._text(texts[2], texts[3], _NAME_BYTES, "a metric")
            kind = self._text(texts[4], texts[5], _NAME_BYTES, "a kind")
            message = self._text(texts[6], texts[7], _MESSAGE_BYTES, "a message")
            if severity >= len(abi.SEVERITIES) or not math.isfinite(value) or not 0 <= time <= LATEST_MS or not kind:
                raise _rubbish(f"an alert has severity {severity}, value {value}, time {time}, kind {kind!r}")
            found.append((device, metric, abi.SEVERITIES[severity], kind, message, value, time))
        return found

    def named_commands(self) -> list[tuple[str, str, str]]:
        """Device, name and arguments of each command."""
        found = []
        for entry in self._entries(abi.COMMAND_ENTRY, self.commands, self.commands_at, "the table of commands"):
            device = self._text(entry[0], entry[1], _NAME_BYTES, "a device")
            name = self._text(entry[2], entry[3], _NAME_BYTES, "a command")
            arguments = self._text(entry[4], entry[5], _ARGUMENT_BYTES, "a command's arguments")
            if not name or not _is_json(arguments):
                raise _rubbish(f"a command {name!r} whose arguments are not a JSON document")
            found.append((device, name, arguments))
        return found

    def _entries(self, form: Any, count: int, offset: int, what: str) -> Any:
        at = self._place(offset, form.size * count, what)
        return form.iter_unpack(self._memory[at : at + form.size * count])

    def _place(self, offset: int, size: int, what: str) -> int:
        at = (self._base + offset) & _WRAP
        if size and at + size > len(self._memory):
            raise _rubbish(f"{what} ({size} bytes at {at}) lies outside the memory of {len(self._memory)} bytes")
        return at

    def _text(self, offset: int, size: int, limit: int, what: str) -> str:
        self._left -= size
        if size > limit or self._left < 0:
            raise Stopped("output_too_large", f"{what} of {size} bytes, where {min(limit, self._left + size)} are left")
        at = self._place(offset, size, what)
        try:
            return str(self._memory[at : at + size], "utf-8")
        except UnicodeDecodeError:
            raise _rubbish(f"{what} is not UTF-8") from None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _rubbish(reason: str) -> Stopped:
    return Stopped("rubbish", reason)
