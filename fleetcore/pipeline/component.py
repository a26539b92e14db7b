"""A consumer that uses a component of a plugin: opens it, drops it after a failure, and opens it again."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Generic, TypeVar

from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.store import Commit
from fleetcore.pipeline.component_state import ComponentState
from fleetcore.pipeline.consumer import Consumer

T = TypeVar("T")
_log = logging.getLogger(__name__)

#: How long closing may take.
_CLOSE_S = 30.0


class ComponentConsumer(Consumer, Generic[T]):
    """A consumer with a plugin component that is open while the consumer runs.

    Args:
        opener: opens a new component, within its own time limit; called again after a failure.
        kept: the component's state; the commit that saves the position writes it.
    """

    def __init__(
        self,
        name: str,
        opener: Callable[[], AbstractAsyncContextManager[T]],
        storage: Storage,
        clock: Clock,
        kept: ComponentState | None = None,
    ) -> None:
        super().__init__(name, storage, clock)
        self._opener, self._component_state = opener, kept
        self._entered: AbstractAsyncContextManager[T] | None = None
        self._opened: T | None = None

    @property
    def component(self) -> T:
        """The open component."""
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
        return super()._to_keep() or (self._component_state is not None and self._component_state.changed)

    def _beside(self) -> Commit:
        return super()._beside() if self._component_state is None else Commit(blobs=self._component_state.blobs())

    def _wrote(self) -> None:
        super()._wrote()
        if self._component_state is not None:
            self._component_state.wrote()
