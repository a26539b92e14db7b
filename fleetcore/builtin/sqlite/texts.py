"""Text readings: a row each, under the same winner's rule as the columns, with text compared by code point."""

import sqlite3
from collections.abc import Sequence

from fleetcore.interfaces.commit_plan import ReadingPlan, plan_readings
from fleetcore.model.telemetry import TextReading


def plan(db: sqlite3.Connection, texts: Sequence[TextReading]) -> ReadingPlan[TextReading]:
    """Applies the winner's rule inside the open transaction; writes nothing."""
    return plan_readings(texts, lambda series, time: _stored(db, series, time))


def apply(db: sqlite3.Connection, some: Sequence[TextReading]) -> None:
    """Writes text readings, each in place of one with its series and time."""
    db.executemany(
        "INSERT OR REPLACE INTO texts(series, time, received, value, quality, seq) VALUES (?, ?, ?, ?, ?, ?)",
        [(t.series, t.time, t.received, t.value, t.quality, t.seq) for t in some],
    )


def read(db: sqlite3.Connection, series: int, start: int, end: int, limit: int) -> list[TextReading]:
    """Text readings of a series in time order."""
    rows = db.execute(
        "SELECT series, time, received, value, quality, seq FROM texts WHERE series=? AND time>=? AND time<?"
        " ORDER BY time LIMIT ?",
        (series, start, end, limit),
    )
    return [TextReading(*row) for row in rows]


def newest(db: sqlite3.Connection, above: int = 0) -> dict[int, tuple[int, str]]:
    """Time and text of the newest text reading of each series above an index; steps from series to series."""
    rows = db.execute(
        "WITH RECURSIVE s(series) AS (SELECT min(series) FROM texts WHERE series > ?"
        " UNION ALL SELECT (SELECT min(series) FROM texts WHERE series > s.series) FROM s WHERE s.series IS NOT NULL)"
        " SELECT s.series, t.time, t.value FROM s JOIN texts AS t ON t.series = s.series"
        " WHERE t.time = (SELECT max(time) FROM texts WHERE series = s.series)",
        (above,),
    )
    return {series: (time, value) for series, time, value in rows}


def _stored(db: sqlite3.Connection, series: int, time: int) -> TextReading | None:
    found = read(db, series, time, time + 1, 1)
    return found[0] if found else None
