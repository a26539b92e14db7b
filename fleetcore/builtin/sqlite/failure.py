"""Translates SQLite's errors into the store's: full, damaged, busy or failed."""

import errno
import sqlite3

from fleetcore.errors import FleetError, StorageError, Unavailable
from fleetcore.files import remedy_of

_FULL_RETRY_S = 10.0
#: SQLite reports only "disk I/O error", also for a disk that became read-only.
_LOOK = "`fleetcore doctor` reports what the disk refuses; no restart is needed"


def storage_full() -> Unavailable:
    """The error while the disk has no room."""
    return Unavailable(
        "The store is full and has stored nothing of this request",
        code="storage_full",
        retry_after_s=_FULL_RETRY_S,
        remedy="Free disk space, let [retention] drop more, or raise limit_bytes of [storage]",
    )


def limit_reached(limit_bytes: int) -> Unavailable:
    """The error while the store's files have reached ``limit_bytes``."""
    return Unavailable(
        f"The store is full: limit_bytes of [storage] is {limit_bytes} bytes. It has stored nothing of this request",
        code="storage_full",
        retry_after_s=_FULL_RETRY_S,
        remedy="Let [retention] drop more, or raise limit_bytes; storing resumes once there is room",
        limit=limit_bytes,
        unit="bytes",
        scope="store",
    )


def translated(error: BaseException) -> BaseException:
    """The store's error for an error of SQLite or a file; raise it ``from`` the given one."""
    if isinstance(error, FleetError) or not isinstance(error, sqlite3.Error | OSError):
        return error
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return storage_full()
        return StorageError(f"The store's files failed: {error.strerror or error}", remedy=remedy_of(error) or _LOOK)
    code = getattr(error, "sqlite_errorcode", 0) or 0
    match code & 0xFF:
        case 13:
            return storage_full()
        case 11 | 26:
            return StorageError(
                f"The database is damaged: {error}",
                remedy="Stop the server and restore a backup with `fleetcore restore`",
            )
        case 5 | 6:
            return Unavailable(f"Another process holds the database: {error}", code="storage_failed")
        case _:
            return StorageError(f"The database failed: {error}", remedy=_LOOK)
