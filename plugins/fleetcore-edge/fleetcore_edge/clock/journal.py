"""A journal of messages on the disk: appended durably, read in their order, removed a segment at a time.

There are two lanes, of readings and of alerts, each a row of segment files. A segment is a row of entries, each with
its length and checksum; an entry that a crash cut short was never acknowledged, and is cut off at the next start.
"""

import logging
import os
import re
import struct
import zlib
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from attrs import define, field

from fleetcore import files

_log = logging.getLogger(__name__)

READINGS, ALERTS = "readings", "alerts"
LANES = (READINGS, ALERTS)
#: A crash while the journal is drained repeats a segment. The store knows the last 10,000 ids of a device: fewer are in
#: one, which takes a batch more at most.
SEGMENT_BYTES, SEGMENT_ENTRIES = 1 << 20, 2000
#: Before each entry: its length and its CRC-32.
_HEAD = struct.Struct("<II")
_NAME = re.compile(rf"({READINGS}|{ALERTS})-(\d{{10}})\.log")


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A message as it came.

    Attributes:
        boot: of the machine.
        at_ms: when it came, since the machine's start.
        identity: the device that sent it.
        type: the name of its message type.
        subject, payload, content_type, id, target, if_version, receipt: as in
            :class:`~fleetcore.model.message.Inbound`.
    """

    boot: str
    at_ms: int
    identity: str
    type: str
    subject: str
    payload: bytes
    content_type: str | None = None
    id: str | None = None
    target: str | None = None
    if_version: int | None = None
    receipt: str | None = None


@define
class Segment:
    """A file of the journal.

    Attributes:
        count: its entries.
        last: the last time of each boot in it.
    """

    path: Path
    number: int
    size: int = 0
    count: int = 0
    last: dict[str, int] = field(factory=dict)


class Journal:
    """The journal in a folder. Its methods block on the disk, and do not overlap; counts may be read meanwhile.

    Attributes:
        folder: where it is.
        damaged: entries, or rows of them, that could not be read and were left out.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rows: dict[str, deque[Segment]] = {lane: deque() for lane in LANES}
        self._next = 1
        self.damaged = 0

    def open(self) -> None:
        """Reads what is there. Raises OSError."""
        files.make_private(self.folder)
        found = [(int(match[2]), match[1]) for each in self.folder.iterdir() if (match := _NAME.fullmatch(each.name))]
        for number, lane in sorted(found):
            segment = Segment(self.folder / f"{lane}-{number:010d}.log", number)
            for entry, size in _entries(segment.path):
                _note(segment, entry, size)
            beyond = segment.path.stat().st_size - segment.size
            if beyond:
                # The last entry may have been cut short by a crash; if there is more, the disk has lost it.
                _log.warning("%s ends after %d bytes; %d bytes beyond are left out", segment.path, segment.size, beyond)
                self.damaged += 1
                os.truncate(segment.path, segment.size)
            if segment.count:
                self._rows[lane].append(segment)
            else:
                segment.path.unlink()
            self._next = number + 1

    def append(self, lane: str, entries: Sequence[Entry]) -> None:
        """Adds entries; they are on the disk when it returns. Raises OSError; then none was added."""
        row = self._rows[lane]
        fresh = not row or row[-1].size >= SEGMENT_BYTES or row[-1].count >= SEGMENT_ENTRIES
        segment = self._made(lane) if fresh else row[-1]
        packed = [msgspec.msgpack.encode(entry) for entry in entries]
        content = b"".join(_HEAD.pack(len(each), zlib.crc32(each)) + each for each in packed)
        try:
            with segment.path.open("ab") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if fresh:
                _sync(self.folder)
        except OSError:
            if fresh:
                segment.path.unlink(missing_ok=True)
            else:
                os.truncate(segment.path, segment.size)
            raise
        for entry, each in zip(entries, packed, strict=True):
            _note(segment, entry, _HEAD.size + len(each))
        if fresh:
            row.append(segment)

    def _made(self, lane: str) -> Segment:
        number, self._next = self._next, self._next + 1
        return Segment(self.folder / f"{lane}-{number:010d}.log", number)

    def first(self, lane: str) -> Segment | None:
        """The oldest segment of a lane."""
        row = self._rows[lane]
        return row[0] if row else None

    def read(self, segment: Segment) -> Sequence[Entry]:
        """The entries of a segment, at most some thousand. Raises OSError."""
        return [entry for entry, _ in _entries(segment.path)][: segment.count]

    def remove(self, lane: str, segment: Segment) -> None:
        """Removes the oldest segment of a lane, if it is still this one. Raises OSError."""
        row = self._rows[lane]
        if row and row[0] is segment:
            segment.path.unlink(missing_ok=True)
            row.popleft()

    @property
    def size(self) -> int:
        """Bytes on the disk."""
        return sum(segment.size for row in self._rows.values() for segment in tuple(row))

    def waiting(self) -> dict[str, int]:
        """Entries by lane."""
        return {lane: sum(segment.count for segment in tuple(row)) for lane, row in self._rows.items()}

    def boots(self) -> Sequence[tuple[str, int]]:
        """The boots with entries, the oldest first, each with the last time since its start."""
        last: Counter[str] = Counter()
        segments = sorted((segment for row in self._rows.values() for segment in row), key=lambda each: each.number)
        for segment in segments:
            for boot, at in segment.last.items():
                last[boot] = max(last[boot], at)
        return list(last.items())


def _note(segment: Segment, entry: Entry, size: int) -> None:
    segment.size += size
    segment.count += 1
    segment.last[entry.boot] = max(entry.at_ms, segment.last.get(entry.boot, 0))


def _entries(path: Path) -> Iterator[tuple[Entry, int]]:
    """The whole entries from the start of a file, each with its size there."""
    content = path.read_bytes()
    at = 0
    while at + _HEAD.size <= len(content):
        length, checksum = _HEAD.unpack_from(content, at)
        packed = content[at + _HEAD.size : at + _HEAD.size + length]
        if len(packed) < length or zlib.crc32(packed) != checksum:
            return
        try:
            entry = msgspec.msgpack.decode(packed, type=Entry)
        except msgspec.MsgspecError:
            return
        yield entry, _HEAD.size + length
        at += _HEAD.size + length


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
