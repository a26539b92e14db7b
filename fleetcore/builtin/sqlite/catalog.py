"""The catalog of series as rows: loaded at the start, inserted as series appear."""

import logging
import sqlite3
from collections.abc import Sequence

from fleetcore.builtin.sqlite import checksum
from fleetcore.builtin.sqlite.plain import lenient
from fleetcore.model.catalog import Catalog
from fleetcore.model.store import SeriesRequest
from fleetcore.model.telemetry import Series, SeriesKind

_log = logging.getLogger(__name__)


def load(db: sqlite3.Connection, above: int = 0) -> tuple[list[Series], set[int]]:
    """The stored series with an index greater than ``above``, and the indexes of those whose row is damaged.

    A damaged one is included so that its readings are not attributed to another series; its name is uncertain.
    """
    found, damaged = [], set()
    with lenient(db):
        rows = db.execute(
            "SELECT id, device, metric, unit, kind, checksum FROM series WHERE id > ? ORDER BY id", (above,)
        )
        for *row, kept in rows:
            index, device, metric, unit, kind = row
            if kept is not None and kept != checksum.of_row(*row):
                damaged.add(index)
                _log.error("The row of series %d (%s of %s) is damaged", index, metric, device)
            known = kind in set(SeriesKind)
            found.append(
                Series(
                    index=index,
                    device=device,
                    metric=metric,
                    unit=unit,
                    kind=SeriesKind(kind) if known else SeriesKind.NUMBER,
                )
            )
    return found, damaged


def insert(db: sqlite3.Connection, wanted: Sequence[SeriesRequest], known: Catalog) -> list[Series]:
    """Inserts the wanted series that are missing, and sets units; returns all of them, in order."""
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
                    "UPDATE series SET unit=?, checksum=NULL WHERE device=? AND metric=? AND unit IS NULL",
                    (request.unit, request.device, request.metric),
                )
            index, unit, kind = db.execute(
                "SELECT id, unit, kind FROM series WHERE device=? AND metric=?", (request.device, request.metric)
            ).fetchone()
            db.execute(
                "UPDATE series SET checksum=? WHERE id=? AND checksum IS NULL",
                (checksum.of_row(index, request.device, request.metric, unit, kind), index),
            )
            series = Series(index=index, device=request.device, metric=request.metric, unit=unit, kind=SeriesKind(kind))
        result.append(series)
    return result


def lacks(series: Series | None, request: SeriesRequest) -> bool:
    """Whether a request changes anything: the series is new, or gets its first unit."""
    return series is None or (series.unit is None and request.unit is not None)
