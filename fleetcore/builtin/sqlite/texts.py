"""Text readings: a row each, under the same winner's rule as the columns, with text compared by code point."""

import logging
import sqlite3
from collections.abc import Sequence

from fleetcore.builtin.sqlite import checksum
from fleetcore.builtin.sqlite.plain import lenient
from fleetcore.errors import StorageError
from fleetcore.interfaces.commit_plan import ReadingPlan, plan_readings
from fleetcore.model.telemetry import TextReading
from fleetcore.wire.times import Ms

_log = logging.getLogger(__name__)

#: A row, in the order of its checksum.
COLUMNS = "series, time, received, quality, seq, value, checksum"


def plan(db: sqlite3.Connection, texts: Sequence[TextReading]) -> ReadingPlan[TextReading]:
    """Applies the winner's rule inside the open transaction; writes nothing."""
    return plan_readings(texts, lambda series, time: _stored(db, series, time))


def apply(db: sqlite3.Connection, some: Sequence[TextReading]) -> None:
    """Writes text readings; each replaces the one with its series and time."""
    db.executemany(
        "INSERT OR REPLACE INTO texts(series, time, received, quality, seq, value, checksum)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (*row, checksum.of_row(*row))
            for t in some
            for row in [(t.series, t.time, t.received, t.quality, t.seq, t.value)]
        ],
    )


def read(db: sqlite3.Connection, series: int, start: int, end: int, limit: int) -> list[TextReading]:
    """Text readings of a series in time order."""
    with lenient(db):
        rows = db.execute(
            f"SELECT {COLUMNS} FROM texts WHERE series=? AND time>=? AND time<? ORDER BY time LIMIT ?",  # noqa: S608 - a constant
            (series, start, end, limit),
        )
        return [_reading(row) for row in rows]


def newest(db: sqlite3.Connection, above: int = 0) -> dict[int, tuple[int, str]]:
    """Time and text of the newest text reading of each series above an index; steps from series to series."""
    rows = db.execute(
        "WITH RECURSIVE s(series) AS (SELECT min(series) FROM texts WHERE series > ?"
        " UNION ALL SELECT (SELECT min(series) FROM texts WHERE series > s.series) FROM s WHERE s.series IS NOT NULL)"
        " SELECT t.series, t.time, t.received, t.quality, t.seq, t.value, t.checksum"
        " FROM s JOIN texts AS t ON t.series = s.series"
        " WHERE t.time = (SELECT max(time) FROM texts WHERE series = s.series)",
        (above,),
    )
    found = {}
    with lenient(db):
        for row in rows:
            try:
                spoken = _reading(row)
            except StorageError as error:
                _log.error("%s", error.message)
            else:
                found[spoken.series] = (spoken.time, spoken.value)
    return found


def _stored(db: sqlite3.Connection, series: int, time: int) -> TextReading | None:
    try:
        found = read(db, series, time, time + 1, 1)
    except StorageError as error:
        # The new reading replaces it.
        _log.error("%s", error.message)
        return None
    return found[0] if found else None


def _reading(row: tuple[int, int, int, int, int, str, int | None]) -> TextReading:
    series, time, received, quality, seq, value, kept = row
    if kept is not None and kept != checksum.of_row(*row[:-1]):
        raise checksum.damaged(f"A text reading of series {series} at {Ms(time)}", series=series, time=str(Ms(time)))
    return TextReading(series, time, received, value, quality, seq)
