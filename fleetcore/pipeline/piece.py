"""A consumer that uses a part of a plugin: it opens the part, drops it after a failure, and opens it again."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Generic, TypeVar

from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.store import Commit
from fleetcore.pipeline.consumer import Consumer
from fleetcore.pipeline.kept_state import KeptState

T = TypeVar("T")
_log = logging.getLogger(__name__)

#: How long closing may take.
_CLOSE_S = 30.0


class PieceConsumer(Consumer, Generic[T]):
    """A consumer with a plugin part that is open while the consumer runs.

    Args:
        opener: opens a new part, within its own time limit; called again after a failure.
        kept: the part's state; the commit that saves the position writes it.
    """

    def __init__(
        self,
        name: str,
        opener: Callable[[], AbstractAsyncContextManager[T]],
        storage: Storage,
        clock: Clock,
        kept: KeptState | None = None,
    ) -> None:
        super().__init__(name, storage, clock)
        self._opener, self._kept_state = opener, kept
        self._entered: AbstractAsyncContextManager[T] | None = None
        self._opened: T | None = None

    @property
    def piece(self) -> T:
        """The open part."""
        assert self._opened is not None
        return self._opened

    async def _open(self) -> None:
        entered = self._opener()
        self._opened = await entered.__aenter__()
        self._entered = entered  # only entered contexts are left

    async def _shut(self) -> None:
        entered, self._entered, self._opened = self._entered, None, None
        if entered is not None:
            try:
                async with asyncio.timeout(_CLOSE_S):
                    await entered.__aexit__(None, None, None)
            except Exception as error:
                _log.warning("%s did not close cleanly: %s: %s", self.name, type(error).__name__, error)

    def _to_keep(self) -> bool:
        return super()._to_keep() or (self._kept_state is not None and self._kept_state.changed)

    def _beside(self) -> Commit:
        return super()._beside() if self._kept_state is None else Commit(blobs=self._kept_state.blobs())

    def _wrote(self) -> None:
        super()._wrote()
        if self._kept_state is not None:
            self._kept_state.wrote()
