"""Cursors of pieces that are no longer configured: they hold the log back as if the piece would come again.

A piece may come again, after a day without its section of fleet.toml for one, and goes on where it was. So its cursor
is kept for a week, is shown meanwhile, and is then dropped with the state that the piece kept.
"""

import logging
from collections.abc import Mapping

from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model import values
from fleetcore.model.store import Commit

_log = logging.getLogger(__name__)

#: How long a cursor without a piece stays.
KEEP_MS = 7 * 24 * 3600 * 1000
#: Blobs that say since when a cursor has no piece.
_SINCE = "left-behind/"
#: What the names of the cursors of pieces begin with, and where the state of such a piece is kept.
_STATES = {"detector": "detectors", "notifier": "notifiers", "mirror": "clouds"}


class LeftBehind:
    """Looks for them now and then.

    Attributes:
        found: by the cursor's name when it goes, ms since the epoch.
    """

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage, self._clock = storage, clock
        self.found: Mapping[str, int] = {}

    async def look(self, configured: frozenset[str]) -> None:
        """Notes what is new, forgets what came again, and drops what is due."""
        cursors = await self._storage.values(values.CURSORS)
        kept = await self._storage.values(values.BLOBS, [_SINCE + name for name in cursors])
        marks = {name.removeprefix(_SINCE): int(since) for name, since in kept.items()}
        now, blobs, gone, found = self._clock.now_ms(), dict[str, bytes | None](), dict[str, int | None](), {}
        for name in cursors:
            if not self._is_left(name, configured):
                continue
            if name not in marks:
                blobs[_SINCE + name] = str(now).encode()
            since = marks.get(name, now)
            if now - since < KEEP_MS:
                found[name] = since + KEEP_MS
                continue
            kind, _, piece = name.partition("/")
            gone[name] = None
            blobs |= dict.fromkeys((_SINCE + name, name, f"{name}/time", f"state/{_STATES[kind]}.{piece}"))
            _log.warning("%s is not configured any more: its place in the log and its state are dropped", name)
        for name in marks.keys() - found.keys() - gone.keys():
            blobs[_SINCE + name] = None
        if blobs or gone:
            await self._storage.commit(Commit(cursors=gone, blobs=blobs))
        self.found = found

    def _is_left(self, name: str, configured: frozenset[str]) -> bool:
        return name.partition("/")[0] in _STATES and name not in configured
