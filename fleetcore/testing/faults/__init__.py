"""Faults on purpose: what goes wrong below a plugin, when a test says so, and is over when it says so.

- :mod:`.store`: a storage that fails, stalls or fills up, and is the real one otherwise.
- :mod:`.disk`: files that cannot grow, syncs that fail or take their time, flipped bits; and for a process that is
  killed afterwards, a disk that takes nothing more, seen by C code too.
- :mod:`.stuck`: a call that hangs until it is let go.
- :mod:`.network`: a TCP proxy that cuts, resets or stalls a connection.

The fault of a moved clock is :class:`~fleetcore.testing.clock.MovableClock`.
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
