"""Batches as blocks of ABI 1."""

import struct
from array import array
from collections.abc import Sequence

from fleetcore_edge.runner import abi, frames
from fleetcore_edge.runner.records import Batch, FunctionRefused

#: Tables of series that are kept, for batches of the same series.
_MOST_TABLES = 64
_PAD = memoryview(b"\0" * 8)
#: Length, operation and function of a request, its time, and the header of its block.
_REQUEST = struct.Struct(frames.HEAD.format + frames.NOW.format[1:] + abi.HEADER.format[1:])


class Encoder:
    """Writes the batches of one function. Each series keeps its number for as long as the function is loaded.

    Args:
        max_series, max_readings: which the function may be given.
    """

    def __init__(self, max_series: int, max_readings: int) -> None:
        self._max_series, self._max_readings = max_series, max_readings
        self._numbers: dict[tuple[str, str, str], int] = {}
        self._tables: dict[tuple[tuple[str, str, str], ...], bytes] = {}

    def request(self, number: int, batch: Batch, now_ms: int) -> "list[bytes | memoryview | array[int] | array[float]]":
        """The pieces of a request to run a function, for ``sendmsg``.

        Raises:
            FunctionRefused: ``batch_invalid`` (columns of other types or lengths), ``batch_too_large``,
                ``too_many_series``.
        """
        count, at, time, value = len(batch.at), batch.at, batch.time, batch.value
        if (at.typecode, time.typecode, value.typecode) != ("I", "q", "d") or not count == len(time) == len(value):
            raise FunctionRefused("The columns must be arrays of I, q and d, of one length", code="batch_invalid")
        if count > self._max_readings:
            raise FunctionRefused(
                f"The batch has {count} readings of at most {self._max_readings}",
                code="batch_too_large",
                remedy="Hand it over in parts",
            )
        key = tuple(batch.series)
        table = self._tables.get(key)
        if table is None:
            table = self._table(key)
        index_at = abi.HEADER.size + len(table)
        time_at = index_at + 4 * (count + count % 2)
        value_at = time_at + 8 * count
        size = value_at + 8 * count
        head = _REQUEST.pack(
            _REQUEST.size - frames.LENGTH.size - abi.HEADER.size + size, frames.RUN, number, now_ms,
            abi.VERSION, len(key), abi.HEADER.size, count, index_at, time_at, value_at, 0, 0, 0, 0,
        )  # fmt: skip
        return [head, table, at, _PAD[: 4 * (count % 2)], time, value]

    def _table(self, series: Sequence[tuple[str, str, str]]) -> bytes:
        """The table of series and its texts, to a multiple of 8 bytes."""
        texts, entries = bytearray(), bytearray()
        begin = abi.HEADER.size + abi.SERIES_ENTRY.size * len(series)
        for each in series:
            number = self._numbers.setdefault(each, len(self._numbers))
            places = [number]
            for text in each:
                encoded = text.encode()
                places += [begin + len(texts), len(encoded)]
                texts += encoded
            entries += abi.SERIES_ENTRY.pack(*places)
        if len(self._numbers) > self._max_series:
            raise FunctionRefused(
                f"The function has seen more than {self._max_series} series",
                code="too_many_series",
                remedy="Narrow its inputs, or load it again",
            )
        table = bytes(entries + texts + bytes(-len(texts) % 8))
        if len(self._tables) >= _MOST_TABLES:
            self._tables.clear()
        self._tables[tuple(series)] = table
        return table
