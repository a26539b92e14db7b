"""The saved state of one component of a plugin: read when the component opens, written with each of its commits."""

import msgspec

from fleetcore.errors import PluginError
from fleetcore.interfaces.state import PluginState
from fleetcore.interfaces.storage import Storage
from fleetcore.model.store import Commit

#: For a component that is a consumer: the prefix of its cursor's name, and its section in fleet.toml.
CONSUMERS = {"detector": "detectors", "notifier": "notifiers", "mirror": "clouds"}

_decoder = msgspec.msgpack.Decoder(dict[str, bytes])


class ComponentState:
    """One blob in the store.

    Args:
        component: ``detectors.hot``.
        with_cursor: whether the component is a consumer, whose state is only written with its cursor: then ``save()``
            does nothing.
    """

    def __init__(self, storage: Storage, component: str, *, with_cursor: bool) -> None:
        self._storage, self._with_cursor = storage, with_cursor
        self.name = state_blob(component)
        self._lent: PluginState | None = None
        self._written = self._taken = 0

    async def load(self) -> PluginState:
        """The state as last written; raises PluginError if it cannot be read."""
        kept = await self._storage.blob(self.name)
        try:
            values = {} if kept is None else _decoder.decode(kept)
        except msgspec.DecodeError as error:
            raise PluginError(f"The blob {self.name!r} in the store is not the state of a plugin: {error}") from error
        self._lent = PluginState(values) if self._with_cursor else PluginState(values, self._write)
        self._written = self._taken = 0
        return self._lent

    @property
    def changed(self) -> bool:
        """Whether there is anything to write."""
        return self._lent is not None and self._lent.changes != self._written

    def blobs(self) -> dict[str, bytes | None]:
        """The blobs for the commit that saves the cursor; call :meth:`wrote` after it."""
        if self._lent is None or not self.changed:
            return {}
        self._taken = self._lent.changes
        return {self.name: _encoded(self._lent.snapshot())}

    def wrote(self) -> None:
        """Called when the result of :meth:`blobs` was stored."""
        self._written = self._taken

    async def _write(self, values: dict[str, bytes]) -> None:
        await self._storage.commit(Commit(blobs={self.name: _encoded(values)}))


def state_blob(component: str) -> str:
    """The name of the blob with the state of a component such as ``detectors.hot``."""
    return f"state/{component}"


def time_blob(cursor: str) -> str:
    """The name of the blob with the time that a detector was given last, by the name of its cursor."""
    return f"{cursor}/time"


def blobs_of(cursor: str) -> tuple[str, ...]:
    """All blobs of a consumer beside its cursor: its snapshot, its time, and its state."""
    kind, _, name = cursor.partition("/")
    return cursor, time_blob(cursor), state_blob(f"{CONSUMERS[kind]}.{name}")


def _encoded(values: dict[str, bytes]) -> bytes | None:
    return msgspec.msgpack.encode(values) if values else None
