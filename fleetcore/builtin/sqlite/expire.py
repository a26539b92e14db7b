"""Expiry: old readings leave chunks and texts, a bounded number in each transaction.

A chunk whose readings are all old is deleted without being read. One that is old in part stays as long as it may; then
it is rewritten without its old readings. The newest reading of a series stays in any case: a restart reads the series'
latest value from it.
"""

import sqlite3
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from fleetcore.builtin.sqlite import chunks, seal
from fleetcore.builtin.sqlite.order import Points
from fleetcore.builtin.sqlite.plain import listed, text
from fleetcore.builtin.sqlite.seal import Maintenance
from fleetcore.builtin.sqlite.state import State
from fleetcore.builtin.sqlite.tail import series_slice
from fleetcore.builtin.sqlite.watermarks import NEVER
from fleetcore.builtin.sqlite.writer import Statements
from fleetcore.model.store import Expired
from fleetcore.model.telemetry import Int64

#: The amount deleted in one transaction, a few milliseconds: a commit waits no longer than that.
_CHUNKS, _CUTS, _TEXTS = 128, 16, 1000
#: No limit, for counting.
_ALL = -1
#: Bytes of a header or a row of text, in addition to its content.
_ROW_BYTES = 64
#: Bytes of a reading in a chunk, about.
_PACKED_BYTES = 3

_OF = "SELECT json_extract(value, '$[0]') AS series, json_extract(value, '$[1]') AS newest FROM json_each(:due)"
_CHUNKS_OF = (
    f"WITH due AS ({_OF}) SELECT c.series, c.t_min, c.id, c.n, ifnull(length(b.body), 0) AS size"  # noqa: S608 - constants
    " FROM due CROSS JOIN chunks AS c ON c.series = due.series LEFT JOIN chunk_bodies AS b ON b.id = c.id"
    " WHERE c.t_min < :may AND c.id <= (SELECT value FROM meta WHERE name='chunks') AND"
)
_WHOLE = f"{_CHUNKS_OF} c.t_max < :may AND c.t_max < due.newest LIMIT :limit"
_PART = (
    f"{_CHUNKS_OF} c.t_min < :must AND c.t_min < c.t_max AND (c.t_max >= :may OR c.t_max = due.newest)"  # noqa: S608 - constants
    " AND c.id NOT IN (SELECT value FROM json_each(:damaged)) LIMIT :limit"
)
_SPOKEN = (
    f"WITH due AS ({_OF}) SELECT t.series, t.time, length(CAST(t.value AS BLOB)) AS size"  # noqa: S608 - constants
    " FROM due CROSS JOIN texts AS t ON t.series = due.series"
    " WHERE t.time < :may AND t.time < (SELECT max(time) FROM texts WHERE series = t.series) LIMIT :limit"
)


class Expiry:
    """The expiry of some series.

    Args:
        series: their indices.
        may: readings before this may be dropped, ms.
        must: readings before this must be dropped, ms.
    """

    def __init__(self, state: State, database: Maintenance, series: Sequence[int], may: int, must: int) -> None:
        self._state, self._database, self._may, self._must = state, database, may, must
        known = [index for index in map(int, series) if state.catalog.has(index)]
        # Visible to readers, so it is durable; it only moves forward.
        newest = state.watermarks.latest(np.array(known, np.int64))[0].tolist()
        self._known = list(zip(known, newest, strict=True))
        self._due = text(self._known)

    def step(self) -> Expired:
        """Drops some of it."""
        whole, parts, spoken = self._whole(_CHUNKS), self._parts(_CUTS), self._spoken(_TEXTS)
        if whole:
            self._database.write(Statements(partial(seal.remove, old=_keys(whole)), weight=_ROW_BYTES * 8 * len(whole)))
            self._state.damaged_chunks.difference_update(row[2] for row in whole)
        cut_readings, cut_bytes = self._cut(parts)
        if spoken:
            self._database.write(Statements(partial(_drop_texts, gone=spoken), weight=_ROW_BYTES * 4 * len(spoken)))
        return Expired(
            readings=_sum(whole, 3) + cut_readings,
            texts=len(spoken),
            size_bytes=_sum(whole, 4) + cut_bytes + _sum(spoken, 2) + _ROW_BYTES * (len(whole) + len(spoken)),
            more=len(whole) == _CHUNKS or len(parts) == _CUTS or len(spoken) == _TEXTS,
        )

    def count(self) -> Expired:
        """The number of readings that all steps would drop."""
        waiting = self._waiting()  # before the chunks: see tail.py
        whole, spoken = self._whole(_ALL), self._spoken(_ALL)
        readings, size = waiting, waiting * _PACKED_BYTES
        for row in self._parts(_ALL):
            if (found := self._split(row)) is not None:
                readings += found[1]
                size += row[4] * found[1] // row[3]
        return Expired(
            readings=_sum(whole, 3) + readings,
            texts=len(spoken),
            size_bytes=_sum(whole, 4) + size + _sum(spoken, 2) + _ROW_BYTES * (len(whole) + len(spoken)),
            more=False,
        )

    def _waiting(self) -> int:
        """Old readings that are not in chunks yet: they are dropped after sealing."""
        found = 0
        runs = self._state.tail.view()
        for index, newest in self._known:
            for run in runs:
                times = run.time[series_slice(run, index, NEVER, self._must)]
                found += len(times) - int((times == newest).sum())
        return found

    def _listed(self, columns: str, query: str, limit: int) -> Any:
        given = {
            "due": self._due,
            "may": self._may,
            "must": self._must,
            "damaged": text(sorted(self._state.damaged_chunks)),
            "limit": limit,
        }
        return self._database.look(lambda db: listed(db, columns, query, given))

    def _whole(self, limit: int) -> list[list[int]]:
        return self._listed("series, t_min, id, n, size", _WHOLE, limit)  # type: ignore[no-any-return]  # as the query says

    def _parts(self, limit: int) -> list[list[int]]:
        return self._listed("series, t_min, id, n, size", _PART, limit)  # type: ignore[no-any-return]  # as the query says

    def _spoken(self, limit: int) -> list[list[int]]:
        return self._listed("series, time, size", _SPOKEN, limit)  # type: ignore[no-any-return]  # as the query says

    def _split(self, row: Sequence[int]) -> tuple[Points, int] | None:
        """What stays of a chunk, and how many readings go; None for a damaged one: it stays until all of it is old."""
        series, _, index, _, _ = row
        found = self._database.look(
            lambda db: db.execute("SELECT body, checksum FROM chunk_bodies WHERE id=?", (index,)).fetchone()
        )
        points = None if found is None else self._state.intact(series, index, *found)
        if points is None:
            self._state.damaged_chunks.add(index)
            return None
        newest = int(self._state.watermarks.latest(np.array([series], np.int64))[0][0])
        stays = (points.time >= self._may) | (points.time == newest)
        if not stays.any():  # a newer one arrived meanwhile
            stays[-1] = True
        return points.take(stays), int((~stays).sum())

    def _cut(self, rows: list[list[int]]) -> tuple[int, int]:
        split = [(row, found) for row in rows if (found := self._split(row)) is not None]
        if not split:
            return 0, 0
        packed = list(chunks.pack(Points.merged([points for _, (points, _) in split])))
        old = _keys([row for row, _ in split])
        self._database.write(Statements(partial(seal.replace, packed=packed, old=old), weight=seal.weight(packed)))
        before = sum(row[4] for row, _ in split)
        return sum(gone for _, (_, gone) in split), max(0, before - sum(len(chunk.body) for chunk in packed))


def _keys(rows: list[list[int]]) -> Int64:
    return np.array([row[:3] for row in rows], np.int64)


def _sum(rows: list[list[int]], column: int) -> int:
    return sum(row[column] for row in rows)


def _drop_texts(db: sqlite3.Connection, gone: list[list[int]]) -> None:
    db.execute(
        "DELETE FROM texts WHERE (series, time) IN"
        " (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?))",
        (text([row[:2] for row in gone]),),
    )
