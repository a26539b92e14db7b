"""Admit: whether a message may come in at all, by session, lifecycle, rate, length and subject."""

from abc import ABC, abstractmethod

from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.provider import Limits
from fleetcore.model.message import Rejected
from fleetcore.pipeline.rate import RateLimit
from fleetcore.pipeline.receive import Delivery
from fleetcore.pipeline.session import DeviceSession, DeviceState

#: The refusal of a subject that the session may not speak for.
FOREIGN = Rejected(code="not_your_device", reason="The identity may not speak for this device")


def silenced(code: str) -> Rejected:
    """The refusal of a device whose lifecycle lets it say nothing; ``code`` is of its state."""
    return Rejected(code=code, reason="The device may not speak")


class Directory(ABC):
    """What the data path asks about devices."""

    @property
    @abstractmethod
    def last_seen(self) -> dict[str, int]:
        """When each device sent last, ms since the epoch; the data path writes it."""

    @abstractmethod
    async def subject(self, session: DeviceSession, subject: str) -> DeviceState | None:
        """The state of a subject that the session may speak for: a leaf whose gateway it is. None is audited."""

    @abstractmethod
    def seen(self, state: DeviceState, now_ms: int) -> None:
        """A message of or about a device was accepted: presence, and the first one makes the device active."""


class Admit:
    """The step."""

    def __init__(self, directory: Directory, clock: Clock, limits: Limits) -> None:
        self._directory = directory
        self._rate = RateLimit(clock, limits)
        self._too_long = Rejected(
            code="limit_exceeded",
            reason="The message is too long",
            limit=limits.message_bytes,
            unit="bytes",
            scope="message",
        )
        self._limit_bytes = limits.message_bytes

    async def admit(self, delivery: Delivery) -> DeviceState | Rejected:
        """The device that the message is about, or why the message is not taken."""
        session, message, _, received = delivery
        identity = session.state
        if session.lost_rights:
            return Rejected(code=session.lost_rights, reason="The session has ended")
        if identity.blocked is not None:
            return silenced(identity.blocked)
        if (too_often := self._rate.refusal(session)) is not None:
            return too_often
        if len(message.payload) > self._limit_bytes:
            return self._too_long
        state = session.subjects.get(message.subject) or await self._directory.subject(session, message.subject)
        if state is None:
            return FOREIGN
        if state.blocked is not None:
            return silenced(state.blocked)
        self._directory.seen(identity, received)
        if state is not identity:
            self._directory.seen(state, received)
        return state
