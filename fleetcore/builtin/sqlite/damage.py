"""The names of damaged things in messages: device, metric and time span of a chunk, kind and key of a record."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from fleetcore.builtin.sqlite import checksum
from fleetcore.errors import StorageError
from fleetcore.model.catalog import Catalog
from fleetcore.wire.times import Ms


def named(db: sqlite3.Connection, catalog: Catalog, error: StorageError) -> StorageError:
    """The error of a damaged chunk, with what the chunk holds; any other error unchanged."""
    index, number = error.ids.get("chunk"), error.ids.get("series")
    if not isinstance(index, int) or not isinstance(number, int) or not catalog.has(number):
        return error
    series = catalog.series(number)
    span = db.execute("SELECT t_min, t_max, n FROM chunks WHERE series=? AND id=?", (number, index)).fetchone()
    if span is None:
        return error
    start, end, count = Ms(span[0]), Ms(span[1]), span[2]
    return checksum.damaged(
        f"A chunk with {count} readings of {series.metric} of {series.device}, {start} to {end},",
        device=series.device,
        metric=series.metric,
        start=str(start),
        end=str(end),
        chunk=index,
    )


@contextmanager
def of_records(db: sqlite3.Connection, kind: str) -> Iterator[None]:
    """The error that names the damaged record where a query fails because a body is not valid JSON."""
    try:
        yield
    except sqlite3.OperationalError as error:
        found = first_record(db, kind)
        if found is None:
            raise
        raise found from error


def first_record(db: sqlite3.Connection, kind: str) -> StorageError | None:
    """The damage of the first damaged record of a kind, in row order."""
    rows = db.execute(
        "SELECT CAST(kind AS BLOB), CAST(key AS BLOB), version, CAST(body AS BLOB), checksum FROM records"
        " WHERE kind=? ORDER BY rowid",
        (kind,),
    )
    for its_kind, key, version, body, kept in rows:
        if (error := of_record(its_kind, key, version, body, kept)) is not None:
            return error
    return None


def of_record(kind: bytes, key: bytes, version: int, body: bytes, kept: int | None) -> StorageError | None:
    """The damage of a record, None if it is intact."""
    its, name, text = (part.decode(errors="replace") for part in (kind, key, body))
    if kept is None or kept == checksum.of_record(its, name, version, text):
        return None
    return record_damaged(its, name)


def record_damaged(kind: str, key: str) -> StorageError:
    """The error for a damaged record."""
    return checksum.damaged(f"The {kind} record {key!r}", kind=kind, key=key)
