"""Ingest: the entry of the data path, where messages are admitted, decoded, validated, stored and acknowledged."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from fleetcore.interfaces.protocol import Session
from fleetcore.model.message import Inbound, Outcome


class Ingest(ABC):
    """Takes device messages of direction ``up``, which are committed; the outcome follows the commit.

    All methods belong to one event loop.
    """

    @abstractmethod
    def deliver(self, session: Session, message: Inbound, done: Callable[[Outcome], None]) -> bool:
        """Queues a message; ``done`` is called once, from the event loop, after it is committed or refused.

        Returns:
            False where the queue has passed its high-water mark: stop reading until :meth:`ready` returns. This message
            is still queued, unless ``done`` has already been called with ``overloaded``.
        """

    @abstractmethod
    async def ready(self) -> None:
        """Returns when the queue is below its low-water mark."""

    @abstractmethod
    async def submit(self, session: Session, message: Inbound) -> Outcome:
        """As :meth:`deliver`, but waits for the outcome. Cancelling the wait does not withdraw the message."""
