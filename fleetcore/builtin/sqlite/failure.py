"""SQLite's errors in the words of the store: full, damaged, busy or failed."""

import errno
import sqlite3

from fleetcore.errors import FleetError, StorageError, Unavailable

_FULL_RETRY_S = 10.0


def storage_full() -> Unavailable:
    """What a caller gets while there is no room."""
    return Unavailable(
        "The store is full and took nothing of this",
        code="storage_full",
        retry_after_s=_FULL_RETRY_S,
        remedy="Free disk space or raise [storage] limit_bytes; no restart is needed",
    )


def translated(error: BaseException) -> BaseException:
    """The error a caller shall see; raise it ``from`` the given one."""
    if isinstance(error, FleetError) or not isinstance(error, sqlite3.Error | OSError):
        return error
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return storage_full()
        return StorageError(f"The store's files failed: {error.strerror or error}")
    code = getattr(error, "sqlite_errorcode", 0) or 0
    match code & 0xFF:
        case 13:
            return storage_full()
        case 11 | 26:
            return StorageError(
                f"The database is damaged: {error}",
                remedy="Stop the server and bring a backup back with `fleetcore restore`",
            )
        case 5 | 6:
            return Unavailable(f"Another process holds the database: {error}", code="storage_failed")
        case _:
            return StorageError(f"The database failed: {error}")
