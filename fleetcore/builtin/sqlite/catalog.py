"""The interned series as rows: loaded at the start, inserted as they come."""

import sqlite3
from collections.abc import Sequence

from fleetcore.model.catalog import Catalog
from fleetcore.model.store import SeriesRequest
from fleetcore.model.telemetry import Series, SeriesKind


def load(db: sqlite3.Connection, above: int = 0) -> list[Series]:
    """The stored series with an index greater than ``above``."""
    return [
        Series(index=index, device=device, metric=metric, unit=unit, kind=SeriesKind(kind))
        for index, device, metric, unit, kind in db.execute(
            "SELECT id, device, metric, unit, kind FROM series WHERE id > ? ORDER BY id", (above,)
        )
    ]


def insert(db: sqlite3.Connection, wanted: Sequence[SeriesRequest], known: Catalog) -> list[Series]:
    """Makes those of the wanted series that are not there yet, and gives units; returns all of them, in order."""
    result: list[Series] = []
    for request in wanted:
        series = known.find(request.device, request.metric)
        if series is None or lacks(series, request):
            db.execute(
                "INSERT INTO series(device, metric, unit, kind) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (request.device, request.metric, request.unit, request.kind.value),
            )
            if request.unit is not None:
                db.execute(
                    "UPDATE series SET unit=? WHERE device=? AND metric=? AND unit IS NULL",
                    (request.unit, request.device, request.metric),
                )
            index, unit, kind = db.execute(
                "SELECT id, unit, kind FROM series WHERE device=? AND metric=?", (request.device, request.metric)
            ).fetchone()
            series = Series(index=index, device=request.device, metric=request.metric, unit=unit, kind=SeriesKind(kind))
        result.append(series)
    return result


def lacks(series: Series | None, request: SeriesRequest) -> bool:
    """Whether a request changes something: the series is new, or has no unit and is given one."""
    return series is None or (series.unit is None and request.unit is not None)
