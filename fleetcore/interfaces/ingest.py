"""Ingest: the entry of the data path, where messages are admitted, decoded, validated, stored and acknowledged."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from attrs import frozen

from fleetcore.interfaces.protocol import Session
from fleetcore.model.message import Inbound, MessageType, Outcome


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


@frozen
class HeldMessage:
    """An admitted message for a :class:`Holder`: the device that sent it, and when it arrived, ms since the epoch."""

    identity: str
    message: Inbound
    received_ms: int


class Holder(ABC):
    """Keeps messages for later instead of the data path, for example while the time is not known.

    ``Fleet.hold`` puts it in place. All methods belong to one event loop.
    """

    @property
    @abstractmethod
    def types(self) -> frozenset[MessageType]:
        """The types that it keeps."""

    @property
    @abstractmethod
    def holds(self) -> bool:
        """Whether a message that arrives now is kept. Read for each message."""

    @property
    @abstractmethod
    def waits(self) -> bool:
        """Whether messages are still to be submitted."""

    @abstractmethod
    async def hold(self, messages: Sequence[HeldMessage]) -> None:
        """Keeps messages durably, in their order; they are then acknowledged. Calls do not overlap.

        The holder submits them later, by ``fleetcore.runtime.replay.resubmit``; refused ones then are dead letters.

        Raises:
            StorageError: they could not be kept. Their senders keep them, and send them again.
        """
