"""SQLite's errors in the words of the store: full, damaged, busy or failed."""

import errno
import sqlite3

from fleetcore.errors import FleetError, StorageError, Unavailable
from fleetcore.files import remedy_of

_FULL_RETRY_S = 10.0
#: SQLite says no more than "disk I/O error", also of a disk that became read-only.
_LOOK = "`fleetcore doctor` says what the disk refuses; no restart is needed"


def storage_full() -> Unavailable:
    """What a caller gets while there is no room."""
    return Unavailable(
        "The store is full and took nothing of this",
        code="storage_full",
        retry_after_s=_FULL_RETRY_S,
        remedy="Free disk space, let [retention] drop more, or raise limit_bytes of [storage]",
    )


def limit_reached(limit_bytes: int) -> Unavailable:
    """What a caller gets while the store's files have come to ``limit_bytes``."""
    return Unavailable(
        f"The store is full: limit_bytes of [storage] is {limit_bytes} bytes. It took nothing of this",
        code="storage_full",
        retry_after_s=_FULL_RETRY_S,
        remedy="Let [retention] drop more, or raise limit_bytes; once there is room, it goes on by itself",
        limit=limit_bytes,
        unit="bytes",
        scope="store",
    )


def translated(error: BaseException) -> BaseException:
    """The error a caller shall see; raise it ``from`` the given one."""
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
                remedy="Stop the server and bring a backup back with `fleetcore restore`",
            )
        case 5 | 6:
            return Unavailable(f"Another process holds the database: {error}", code="storage_failed")
        case _:
            return StorageError(f"The database failed: {error}", remedy=_LOOK)
