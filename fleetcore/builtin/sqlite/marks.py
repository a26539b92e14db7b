"""The message ids that devices used, with the first answer to each."""

import sqlite3
from collections import Counter
from collections.abc import Sequence

from msgspec import json

from fleetcore.builtin.sqlite import checksum
from fleetcore.builtin.sqlite.plain import listed, text
from fleetcore.model.days import DAY_MS
from fleetcore.model.store import MessageMark

#: wire.md §3: the last 10,000 ids of a device, for 24 hours.
KEEP_MS = DAY_MS
KEEP_PER_DEVICE = 10_000


class MarkCounts:
    """How many marks each device added since its oldest were pruned; belongs to the writer thread."""

    def __init__(self) -> None:
        self.added: Counter[str] = Counter()

    def crowded(self) -> list[str]:
        """Devices that may have more marks than needed; their counts are reset."""
        found = [device for device, n in self.added.items() if n > KEEP_PER_DEVICE // 2]
        for device in found:
            del self.added[device]
        return found


def add(db: sqlite3.Connection, marks: Sequence[MessageMark], counts: MarkCounts) -> None:
    """Adds marks; a known id keeps its first answer."""
    db.execute(
        "INSERT INTO marks(device, id, time, answer, checksum) SELECT json_extract(value, '$[0]'),"
        " json_extract(value, '$[1]'), json_extract(value, '$[2]'), json_extract(value, '$[3]'),"
        " json_extract(value, '$[4]') FROM json_each(?) WHERE true ON CONFLICT DO NOTHING",
        (text([(*row, checksum.of_row(*row)) for row in map(_row, marks)]),),
    )
    for mark in marks:
        counts.added[mark.device] += 1


def _row(mark: MessageMark) -> tuple[str, str, int, str]:
    return mark.device, mark.id, mark.time, text(mark.answer)


def look_up(db: sqlite3.Connection, device: str, ids: Sequence[str]) -> dict[str, MessageMark]:
    """The ids that the device used already."""
    rows = listed(
        db,
        "id, time, answer, checksum",
        "SELECT m.id, m.time, m.answer, m.checksum FROM json_each(?) AS j"
        " CROSS JOIN marks AS m ON m.device=? AND m.id=j.value",
        (text(list(ids)), device),
    )
    return {
        index: MessageMark(device=device, id=index, time=time, answer=json.decode(answer))
        for index, time, answer, kept in rows
        # Without its mark a message counts as new; its stored readings count as duplicates.
        if kept is None or kept == checksum.of_row(device, index, time, answer)
    }


def prune(db: sqlite3.Connection, now_ms: int, crowded: Sequence[str]) -> None:
    """Removes marks older than a day, and all but the last 10,000 of crowded devices."""
    db.execute("DELETE FROM marks WHERE time < ?", (now_ms - KEEP_MS,))
    for device in crowded:
        db.execute(
            "DELETE FROM marks WHERE device=?1 AND time <"
            " (SELECT time FROM marks WHERE device=?1 ORDER BY time DESC LIMIT 1 OFFSET ?2)",
            (device, KEEP_PER_DEVICE - 1),
        )
