"""Adds missing checksums to the chunks of an earlier release: some at a time, newest first, until all have one.

``meta.unsummed`` is the highest id of a chunk that may lack one. The content is trusted as it is, if it can be decoded.
"""

import sqlite3

from fleetcore.builtin.sqlite import checksum, schema

#: The amount written in one transaction.
MISSING_BYTES = 4 * 1024**2
_ROWS = 512


def add_missing(db: sqlite3.Connection) -> bool:
    """Adds some; returns False when none is missing."""
    top = schema.meta(db).get("unsummed", 0)
    if top == 0:
        return False
    rows = db.execute(
        "SELECT b.id, c.series, b.body FROM chunk_bodies AS b JOIN chunks AS c ON c.id = b.id"
        " WHERE b.id BETWEEN ? AND ? AND b.checksum IS NULL",
        (top - _ROWS + 1, top),
    )
    found = [(checksum.of_chunk(series, index, body), index) for index, series, body in rows]
    db.executemany("UPDATE chunk_bodies SET checksum=? WHERE id=?", found)
    schema.set_meta(db, "unsummed", max(0, top - _ROWS))
    return True
