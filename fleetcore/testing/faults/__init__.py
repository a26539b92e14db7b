"""Deliberate faults below a plugin, which begin and end when a test says so.

- :mod:`.store`: a storage that fails, stalls or fills up, and is otherwise the real one.
- :mod:`.disk`: files that cannot grow, syncs that fail or are slow, flipped bits; and for a process that is killed
  afterwards, a disk that refuses writes, also of C code.
- :mod:`.stuck`: a call that hangs until it is released.
- :mod:`.network`: a TCP proxy that cuts, resets or stalls a connection.

For a moved clock use :class:`~fleetcore.testing.clock.MovableClock`.
"""

from fleetcore.testing.faults.disk import at_sync, break_calls, failing_sync, files_cannot_grow, flip_bit, slow_sync
from fleetcore.testing.faults.network import CutProxy
from fleetcore.testing.faults.store import FaultyStorage, faulty
from fleetcore.testing.faults.stuck import Stuck

__all__ = [
    "CutProxy",
    "FaultyStorage",
    "Stuck",
    "at_sync",
    "break_calls",
    "failing_sync",
    "faulty",
    "files_cannot_grow",
    "flip_bit",
    "slow_sync",
]
