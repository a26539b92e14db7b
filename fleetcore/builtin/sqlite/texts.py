"""Text readings: a row each, under the same winner's rule as the columns, with text compared by code point."""

import sqlite3
from collections.abc import Sequence

from attrs import evolve, frozen

from fleetcore.model.telemetry import Quality, Tally, TextReading


@frozen
class TextPlan:
    """The text readings of a commit that change the store, those among them that the feed shows, and the count."""

    write: tuple[TextReading, ...]
    shown: tuple[TextReading, ...]
    tally: Tally


def plan(db: sqlite3.Connection, texts: Sequence[TextReading]) -> TextPlan:
    """Applies the winner's rule inside the open transaction; writes nothing."""
    stored: dict[tuple[int, int], TextReading] = {}
    before: dict[tuple[int, int], str | None] = {}
    counts = [0, 0, 0]
    # As for numbers: times of the server's give way to those of devices in the same commit.
    for text in sorted(texts, key=lambda reading: bool(reading.quality & Quality.SERVER_TIME)):
        if text.quality & Quality.SERVER_TIME:
            while (text.series, text.time) in stored or _stored(db, text.series, text.time) is not None:
                text = evolve(text, time=text.time + 1)
        place = (text.series, text.time)
        known = stored.get(place) or _stored(db, *place)
        before.setdefault(place, None if known is None else known.value)
        if known is None:
            counts[0] += 1
        elif known.value == text.value:
            counts[1] += 1
        else:
            counts[2] += 1
        if known is None or _rank(text) > _rank(known):
            stored[place] = text
    return TextPlan(
        tuple(stored.values()),
        tuple(text for place, text in stored.items() if before[place] != text.value),
        Tally(stored=counts[0], duplicates=counts[1], conflicts=counts[2]),
    )


def apply(db: sqlite3.Connection, planned: TextPlan) -> None:
    """Writes what was planned."""
    db.executemany(
        "INSERT OR REPLACE INTO texts(series, time, received, value, quality, seq) VALUES (?, ?, ?, ?, ?, ?)",
        [(t.series, t.time, t.received, t.value, t.quality, t.seq) for t in planned.write],
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


def _rank(text: TextReading) -> tuple[int, str, int]:
    return text.seq, text.value, -text.quality
