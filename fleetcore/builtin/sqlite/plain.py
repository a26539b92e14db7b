"""JSON between Python and SQLite: bodies, and whole lists as one parameter or one result.

The ``sqlite3`` module releases the interpreter lock for every row. While the event loop computes, getting it back takes
up to the switch interval (5 ms), so a thousand rows cost seconds. A list passed as one JSON text costs one step.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from msgspec.json import Encoder, decode


def _other(thing: object) -> object:
    if isinstance(thing, Mapping):
        return dict(thing)
    raise TypeError(f"{type(thing).__name__} is not plain data: use text, numbers, booleans, lists and mappings")


_encoder = Encoder(enc_hook=_other)


def encode(thing: object) -> bytes:
    """Compact JSON; raises ``TypeError`` for values that JSON cannot represent."""
    return _encoder.encode(thing)


def text(thing: object) -> str:
    """The same as text, as the tables store it."""
    return _encoder.encode(thing).decode()


@contextmanager
def lenient(db: sqlite3.Connection) -> Iterator[None]:
    """Within the context, invalid UTF-8 is read with replacement characters: for rows whose checksum is checked."""
    kept, db.text_factory = db.text_factory, _replaced
    try:
        yield
    finally:
        db.text_factory = kept


def _replaced(raw: bytes) -> str:
    return raw.decode(errors="replace")


def listed(
    db: sqlite3.Connection, columns: str, query: str, parameters: Sequence[object] | Mapping[str, object]
) -> Any:
    """The rows of a query, in one step. Its columns are text and integers: JSON would round other numbers.

    Invalid UTF-8 is read with replacement characters, so that the row's checksum shows the damage. Typed Any, because
    the query decides the columns.
    """
    wrapped = f"SELECT json_group_array(json_array({columns})) FROM ({query})"  # noqa: S608 - queries of ours
    with lenient(db):
        return decode(db.execute(wrapped, parameters).fetchone()[0])
