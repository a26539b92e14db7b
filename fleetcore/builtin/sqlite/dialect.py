"""SQLite expressions over JSON documents: the target of :mod:`fleetcore.query.sql`.

The path of a field is a parameter like every value, so no user input becomes part of a statement.
"""

import sqlite3

from fleetcore.query.ast import Path, Scalar
from fleetcore.query.sql import Dialect, Sql
from fleetcore.query.versions import Key, version_key

#: JSON types by the kind of a literal; SQLite's names.
_NUMBER, _TEXT = "'integer', 'real'", "'text'"


class SqliteDialect(Dialect):
    """Builds expressions over the document in a column.

    Args:
        column: an SQL expression of JSON text; written by fleetcore, never by a user.
    """

    def __init__(self, column: str) -> None:
        self._column = column

    def can_name(self, path: Path) -> bool:
        # SQLite compares keys with the document's raw text, where a backslash or a quote would be escaped.
        return not any('"' in key or "\\" in key or not key.isprintable() for key in path)

    def exists(self, path: Path) -> Sql:
        return Sql(f"ifnull(json_type({self._column}, ?), 'null') <> 'null'", (_json_path(path),))

    def compare(self, path: Path, operator: str, value: Scalar) -> Sql:
        at = _json_path(path)
        types = "'true', 'false'" if isinstance(value, bool) else _TEXT if isinstance(value, str) else _NUMBER
        return self._typed(at, types, f"json_extract({self._column}, ?) {_sign(operator)} ?", value)

    def has(self, path: Path, value: Scalar) -> Sql:
        at = _json_path(path)
        types = f"'{'true' if value else 'false'}'" if isinstance(value, bool) else None
        types = types or (_TEXT if isinstance(value, str) else _NUMBER)
        inside = f"EXISTS (SELECT 1 FROM json_each({self._column}, ?) WHERE type IN ({types}) AND atom = ?)"  # noqa: S608 - ours
        return self._typed(at, "'array'", inside, value)

    def like(self, path: Path, pattern: str) -> Sql:
        # GLOB has * and ? like the grammar, but also character classes, so a bracket is escaped.
        glob = pattern.replace("[", "[[]")
        return self._typed(_json_path(path), _TEXT, f"json_extract({self._column}, ?) GLOB ?", glob)

    def version(self, path: Path, operator: str, version: str) -> Sql:
        order = f"version_order(json_extract({self._column}, ?), ?) {_sign(operator)} 0"
        return self._typed(_json_path(path), _TEXT, order, version)

    def _typed(self, at: str, types: str, condition: str, value: Scalar) -> Sql:
        # A CASE without ELSE is NULL: a missing value or one of another type is unknown.
        text = f"CASE WHEN json_type({self._column}, ?) IN ({types}) THEN {condition} END"
        return Sql(text, (at, at, value))


def _sign(operator: str) -> str:
    return "<>" if operator == "!=" else operator


def _json_path(path: Path) -> str:
    return "$" + "".join(f'."{key}"' for key in path)


def add_functions(db: sqlite3.Connection) -> None:
    """Registers functions that SQLite lacks with a connection."""
    db.create_function("version_order", 2, _version_order, deterministic=True)


def _version_order(held: str, wanted: str) -> int | None:
    a: Key | None = version_key(held)
    b: Key | None = version_key(wanted)
    return None if a is None or b is None else (a > b) - (a < b)
