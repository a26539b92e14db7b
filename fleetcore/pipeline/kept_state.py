"""The state of one piece of a plugin in the store: read when the piece opens, written with each commit for it."""

import msgspec

from fleetcore.errors import PluginError
from fleetcore.interfaces.state import PluginState
from fleetcore.interfaces.storage import Storage
from fleetcore.model.store import Commit

#: Of a piece that is a consumer: what its cursor's name begins with, and its section in fleet.toml.
CONSUMERS = {"detector": "detectors", "notifier": "notifiers", "mirror": "clouds"}

_decoder = msgspec.msgpack.Decoder(dict[str, bytes])


class KeptState:
    """One blob of the store.

    Args:
        piece: ``detectors.hot``.
        with_cursor: whether the piece is a consumer, whose state is written together with its cursor alone: then
            ``save()`` of the state does nothing.
    """

    def __init__(self, storage: Storage, piece: str, *, with_cursor: bool) -> None:
        self._storage, self._with_cursor = storage, with_cursor
        self.name = state_blob(piece)
        self._lent: PluginState | None = None
        self._written = self._taken = 0

    async def load(self) -> PluginState:
        """The state as it was written last; raises PluginError where it cannot be read."""
        kept = await self._storage.blob(self.name)
        try:
            values = {} if kept is None else _decoder.decode(kept)
        except msgspec.DecodeError as error:
            raise PluginError(f"The blob {self.name!r} in the store is not a plugin's state: {error}") from error
        self._lent = PluginState(values) if self._with_cursor else PluginState(values, self._write)
        self._written = self._taken = 0
        return self._lent

    @property
    def changed(self) -> bool:
        """Whether there is something to write."""
        return self._lent is not None and self._lent.changes != self._written

    def blobs(self) -> dict[str, bytes | None]:
        """What belongs into the commit that keeps the cursor; call :meth:`wrote` once that is done."""
        if self._lent is None or not self.changed:
            return {}
        self._taken = self._lent.changes
        return {self.name: _encoded(self._lent.snapshot())}

    def wrote(self) -> None:
        """What :meth:`blobs` gave is stored."""
        self._written = self._taken

    async def _write(self, values: dict[str, bytes]) -> None:
        await self._storage.commit(Commit(blobs={self.name: _encoded(values)}))


def state_blob(piece: str) -> str:
    """Where the state of a piece, ``detectors.hot``, is kept."""
    return f"state/{piece}"


def time_blob(cursor: str) -> str:
    """Where the time that a detector was told last is kept, by the name of its cursor."""
    return f"{cursor}/time"


def blobs_of(cursor: str) -> tuple[str, ...]:
    """All that a consumer keeps beside its cursor: its snapshot, its time, and its state."""
    kind, _, name = cursor.partition("/")
    return cursor, time_blob(cursor), state_blob(f"{CONSUMERS[kind]}.{name}")


def _encoded(values: dict[str, bytes]) -> bytes | None:
    return msgspec.msgpack.encode(values) if values else None
