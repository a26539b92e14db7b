"""The tables, how they change from version to version, and how a connection is set up.

``PRAGMA user_version`` holds the schema's version. A migration runs in one transaction, so an interrupted one leaves
the previous version. Every release opens data folders of all earlier ones.
"""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from fleetcore.builtin.sqlite import checksum
from fleetcore.builtin.sqlite.dialect import add_functions
from fleetcore.errors import StorageError

#: Pages of 8 KiB: against 4 KiB about a tenth less time per commit of 10,000 readings (benchmarks/bench_store.py).
PAGE_BYTES = 8192

#: The WAL length at which the writer itself checkpoints; checkpoint.py normally does it earlier. A store with a limit
#: reserves an eighth of it for the WAL, if that is less.
_WAL_BYTES, _WAL_SHARE = 24 * 1024**2, 8

#: How long another process may hold the database before a statement gives up.
_BUSY_S = 30.0

_VERSION_1 = """
CREATE TABLE meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('sealed', 0), ('trimmed', 0), ('chunks', 0), ('feed_lost', 0), ('forgotten', 0);

-- One row per commit that shows something. The small columns come first: reading them touches no overflow page.
CREATE TABLE log(position INTEGER PRIMARY KEY, size INTEGER NOT NULL, readings BLOB, extras BLOB);

-- AUTOINCREMENT: the index of a forgotten series is not given out again.
CREATE TABLE series(
    id INTEGER PRIMARY KEY AUTOINCREMENT, device TEXT NOT NULL, metric TEXT NOT NULL, unit TEXT, kind TEXT NOT NULL,
    UNIQUE(device, metric));

-- Chunks above meta.chunks are being sealed and not valid yet. The id in the key: two chunks may start at one time.
CREATE TABLE chunks(
    series INTEGER NOT NULL, t_min INTEGER NOT NULL, id INTEGER NOT NULL, t_max INTEGER NOT NULL, n INTEGER NOT NULL,
    v_last REAL NOT NULL, seq_last INTEGER NOT NULL, PRIMARY KEY(series, t_min, id)) WITHOUT ROWID;
CREATE TABLE chunk_bodies(id INTEGER PRIMARY KEY, body BLOB NOT NULL);

CREATE TABLE texts(
    series INTEGER NOT NULL, time INTEGER NOT NULL, received INTEGER NOT NULL, quality INTEGER NOT NULL,
    seq INTEGER NOT NULL, value TEXT NOT NULL, PRIMARY KEY(series, time)) WITHOUT ROWID;

CREATE TABLE records(
    kind TEXT NOT NULL, key TEXT NOT NULL, version INTEGER NOT NULL, due INTEGER, body TEXT NOT NULL,
    UNIQUE(kind, key));
CREATE INDEX records_due ON records(kind, due, key) WHERE due IS NOT NULL;
CREATE TABLE uniques(
    space TEXT NOT NULL, value TEXT NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL,
    PRIMARY KEY(space, value)) WITHOUT ROWID;
CREATE INDEX uniques_of ON uniques(kind, key);
CREATE TABLE refs(
    kind TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, key TEXT NOT NULL,
    PRIMARY KEY(kind, name, value, key)) WITHOUT ROWID;
CREATE INDEX refs_of ON refs(kind, key);

CREATE TABLE marks(
    device TEXT NOT NULL, id TEXT NOT NULL, time INTEGER NOT NULL, answer TEXT NOT NULL,
    PRIMARY KEY(device, id)) WITHOUT ROWID;
CREATE INDEX marks_time ON marks(time);

CREATE TABLE cursors(name TEXT PRIMARY KEY, position INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE blobs(name TEXT PRIMARY KEY, body BLOB NOT NULL);
"""

_VERSION_2 = """
CREATE TABLE counters(
    space TEXT NOT NULL, name TEXT NOT NULL, value INTEGER NOT NULL, PRIMARY KEY(space, name)) WITHOUT ROWID;
CREATE TABLE floors(
    space TEXT NOT NULL, name TEXT NOT NULL, value INTEGER NOT NULL, PRIMARY KEY(space, name)) WITHOUT ROWID;

-- The records of a ref in the order of their sort, then of their keys.
CREATE TABLE sorted_refs(
    kind TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, sort TEXT NOT NULL, key TEXT NOT NULL,
    PRIMARY KEY(kind, name, value, sort, key)) WITHOUT ROWID;
INSERT INTO sorted_refs SELECT kind, name, value, '', key FROM refs;
DROP TABLE refs;
ALTER TABLE sorted_refs RENAME TO refs;
CREATE INDEX refs_of ON refs(kind, key);

-- Of the row's content (checksum.py); NULL in a chunk that an earlier release wrote, until it gets its own.
ALTER TABLE log ADD COLUMN checksum INTEGER;
ALTER TABLE chunk_bodies ADD COLUMN checksum INTEGER;
ALTER TABLE records ADD COLUMN checksum INTEGER;
ALTER TABLE blobs ADD COLUMN checksum INTEGER;
"""

_VERSION_3 = """
ALTER TABLE texts ADD COLUMN checksum INTEGER;
ALTER TABLE marks ADD COLUMN checksum INTEGER;
ALTER TABLE series ADD COLUMN checksum INTEGER;
-- 0 in older rows: what they hold was written before truth values were told apart from numbers point by point.
ALTER TABLE chunks ADD COLUMN q_last INTEGER NOT NULL DEFAULT 0;
ALTER TABLE chunks ADD COLUMN checksum INTEGER;
UPDATE records SET checksum = checksum_of_record(kind, key, version, body);
UPDATE log SET checksum = checksum_of_log(position, readings, extras);
UPDATE blobs SET checksum = checksum_of_blob(name, body);
UPDATE texts SET checksum = checksum_of_row(series, time, received, quality, seq, value);
UPDATE marks SET checksum = checksum_of_row(device, id, time, answer);
UPDATE series SET checksum = checksum_of_row(id, device, metric, unit, kind);
UPDATE chunks SET checksum = checksum_of_header(series, t_min, id, t_max, n, v_last, q_last, seq_last);
-- Writing all chunks anew takes long where there are many: those up to this one get theirs bit by bit.
INSERT INTO meta SELECT 'unsummed', value FROM meta WHERE name = 'chunks';
"""

#: Each upgrades the schema from its index in the list to the next version.
_MIGRATIONS: Sequence[str] = (_VERSION_1, _VERSION_2, _VERSION_3)
VERSION = len(_MIGRATIONS)


def connect(database: Path | None, *, read_only: bool = False, limit_bytes: int | None = None) -> sqlite3.Connection:
    """A connection with the store's settings: explicit transactions, WAL, every commit synced; None is in memory.

    Raises StorageError as :func:`check_version` does.
    """
    # as_uri() quotes characters that would start a query string.
    target = f"{database.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}" if database else ":memory:"
    db = sqlite3.connect(
        target, timeout=_BUSY_S, isolation_level=None, check_same_thread=False, uri=database is not None
    )
    try:
        add_functions(db)
        checksum.add_functions(db)
        # Before anything is written: the file of a newer release stays unchanged.
        version = check_version(db)
        if read_only and version < VERSION:
            raise StorageError(
                f"The data has schema {version}, which is upgraded to {VERSION} when it is opened for writing",
                remedy="Open it for writing once: `fleetcore serve`, or any command",
                schema=version,
            )
        if not read_only:
            if version == 0:
                db.execute(f"PRAGMA page_size={PAGE_BYTES}")
                db.execute("PRAGMA auto_vacuum=INCREMENTAL")
            if database is not None:
                db.execute("PRAGMA journal_mode=WAL")
            # FULL: in WAL mode NORMAL loses the last commits at a power cut.
            db.execute("PRAGMA synchronous=FULL")
            db.execute(f"PRAGMA wal_autocheckpoint={wal_bytes(limit_bytes) // PAGE_BYTES}")
            db.execute(f"PRAGMA journal_size_limit={wal_bytes(limit_bytes)}")
            # Bytes moved or deleted within a page that is written anyway are overwritten: no copy outlives `forget`,
            # which sets ON, the mode that also overwrites freed pages.
            db.execute("PRAGMA secure_delete=FAST")
        db.execute("PRAGMA cache_size=-32768")
        db.execute("PRAGMA temp_store=MEMORY")
    except BaseException:
        db.close()
        raise
    return db


def wal_bytes(limit_bytes: int | None) -> int:
    """The maximum length of the WAL in a store with this limit."""
    return _WAL_BYTES if limit_bytes is None else max(PAGE_BYTES, min(_WAL_BYTES, limit_bytes // _WAL_SHARE))


def version_of(db: sqlite3.Connection) -> int:
    """The schema's version; 0 for an empty file."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def check_version(db: sqlite3.Connection) -> int:
    """The version, if this release can read it.

    Raises:
        StorageError: the data was written by a newer release.
    """
    found = version_of(db)
    if found > VERSION:
        raise StorageError(
            f"The data has schema {found}; this release knows schemas up to {VERSION}",
            remedy="Install the release that wrote it, or a newer one",
            schema=found,
        )
    return found


def migrate(db: sqlite3.Connection) -> None:
    """Brings the tables to :data:`VERSION`, one transaction per step."""
    for version in range(check_version(db), VERSION):
        db.execute("BEGIN IMMEDIATE")
        try:
            for statement in _statements(_MIGRATIONS[version]):
                db.execute(statement)
            db.execute(f"PRAGMA user_version={version + 1}")
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise


def _statements(script: str) -> list[str]:
    # executescript() would commit the transaction that makes the step atomic.
    lines = [line for line in script.splitlines() if not line.startswith("--")]
    return [statement for statement in "\n".join(lines).split(";") if statement.strip()]


def meta(db: sqlite3.Connection) -> dict[str, int]:
    """The store's counters."""
    return dict(db.execute("SELECT name, value FROM meta"))


def set_meta(db: sqlite3.Connection, name: str, value: int) -> None:
    """Sets a counter inside the caller's transaction."""
    db.execute("UPDATE meta SET value=? WHERE name=?", (value, name))
