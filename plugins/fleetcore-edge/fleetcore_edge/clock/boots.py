"""What a gateway remembers of time over restarts and boots: one small file, replaced in one step.

For each boot it has the decision by which messages of that boot are dated: the wall clock at its start. That is made
once.
"""

import logging
from pathlib import Path

import msgspec

from fleetcore import files

_log = logging.getLogger(__name__)


class Boot(msgspec.Struct, frozen=True, kw_only=True):
    """One start of the machine.

    An offset is the wall clock at that start, ms since the epoch: the wall clock is offset and time since the start.

    Attributes:
        estimate_ms: the earliest offset that is possible by what was known before: estimates follow it.
        last_ms: the latest time since the start, ms, that was written down.
        offset_ms: the decision, by which held messages are dated, or None; it never changes.
        source: where the decision is from: ``machine``, ``core`` or ``estimate``.
        present_ms: the offset of the present time, which follows corrections, or None.
        present_source: where that is from.
    """

    id: str
    estimate_ms: int
    last_ms: int
    offset_ms: int | None = None
    source: str = ""
    present_ms: int | None = None
    present_source: str = ""


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """The file.

    Attributes:
        floor_ms: the last time that was written down; it is not after the true time, unless the clock was ahead.
        boots: the oldest first.
    """

    floor_ms: int = 0
    boots: tuple[Boot, ...] = ()


def read_times(file: Path) -> Times:
    """The file's content; the empty one where it is missing or damaged."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Times)
    except FileNotFoundError:
        return Times()
    except (OSError, msgspec.MsgspecError) as error:
        _log.error("%s cannot be read, so what was known of time is lost: %s", file, error)
        return Times()


def write_times(file: Path, times: Times) -> None:
    """Replaces the file durably; raises OSError."""
    files.make_private(file.parent)
    files.replace(file, msgspec.json.encode(times))
