"""Checksums of rows, so that a flipped bit is refused when it is read, and not served.

CRC-32 of the content and its key: content that moved to another row is damage too. It protects against media errors; an
attacker who can write the file can write the checksum. Headers of chunks are mixed column by column instead, thousands
at a time: each step is a bijection, so a change in one column is always found.
"""

import sqlite3
from collections.abc import Sequence
from zlib import crc32

import numpy as np
import numpy.typing as npt

from fleetcore.errors import StorageError
from fleetcore.model.telemetry import Int64

_SEED, _PRIME, _HALF = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93), np.uint64(32)
#: Joins the parts; no name contains it.
_BETWEEN = "\0"


def of_record(kind: str, key: str, version: int, body: str) -> int:
    """The checksum of a record; its body is the stored text."""
    return crc32(f"{kind}\0{key}\0{version}\0{body}".encode())


def of_log(position: int, readings: bytes | None, extras: bytes | None) -> int:
    """The checksum of a row of the log."""
    sizes = (-1 if part is None else len(part) for part in (readings, extras))
    start = crc32("{}\0{}\0{}".format(position, *sizes).encode())
    return crc32(extras or b"", crc32(readings or b"", start))


def of_chunk(series: int, index: int, body: bytes) -> int:
    """The checksum of a chunk's body."""
    return crc32(body, crc32(f"{series}\0{index}".encode()))


def of_blob(name: str, body: bytes) -> int:
    """The checksum of a blob."""
    return crc32(body, crc32(name.encode()))


def of_row(*values: str | int | None) -> int:
    """The checksum of the columns of a small row."""
    return crc32(_BETWEEN.join(map(str, values)).encode())


def of_headers(columns: Sequence[Int64 | npt.NDArray[np.float64]]) -> Int64:
    """The checksum of each chunk header, given as columns."""
    mixed = np.full(len(columns[0]), _SEED, np.uint64)
    for column in columns:
        mixed ^= np.ascontiguousarray(column).view(np.uint64)
        mixed *= _PRIME
        mixed ^= mixed >> _HALF
    return mixed.view(np.int64)


def add_functions(db: sqlite3.Connection) -> None:
    """Registers the checksum functions with a connection, for upgrades of stored rows."""

    def of_header(*header: float) -> int:
        return int(of_headers([np.array([value]) for value in header])[0])

    db.create_function("checksum_of_record", 4, of_record, deterministic=True)
    db.create_function("checksum_of_log", 3, of_log, deterministic=True)
    db.create_function("checksum_of_blob", 2, of_blob, deterministic=True)
    db.create_function("checksum_of_row", -1, of_row, deterministic=True)
    db.create_function("checksum_of_header", 8, of_header, deterministic=True)


def damaged(what: str, **ids: object) -> StorageError:
    """The error for damaged stored content; ``what`` is the subject of its sentence."""
    return StorageError(
        f"{what} is damaged: its checksum does not match",
        code="data_damaged",
        remedy="`fleetcore doctor --deep` lists all damage; `fleetcore restore` restores a backup",
        **ids,
    )
