"""Admit: whether a message is accepted at all, by session, lifecycle, rate, length and subject."""

from abc import ABC, abstractmethod

from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.provider import Limits
from fleetcore.model.message import Rejected
from fleetcore.pipeline.rate import RateLimit
from fleetcore.pipeline.receive import Delivery
from fleetcore.pipeline.session import DeviceSession, DeviceState

#: The refusal of a subject that the session is not allowed to use.
FOREIGN = Rejected(code="not_your_device", reason="The identity may not send messages about this device")


def silenced(code: str) -> Rejected:
    """The refusal of a device whose lifecycle state does not let it send; ``code`` is that of the state."""
    return Rejected(code=code, reason="The device may not send in this state")


class Directory(ABC):
    """What the data path needs to know about devices."""

    @property
    @abstractmethod
    def last_seen(self) -> dict[str, int]:
        """When each device last sent, ms since the epoch; the data path updates it."""

    @abstractmethod
    async def subject(self, session: DeviceSession, subject: str) -> DeviceState | None:
        """The state of a subject that the session may send about: a leaf of its gateway. None is audited."""

    @abstractmethod
    def seen(self, state: DeviceState, now_ms: int) -> None:
        """Records an accepted message of or about a device: presence; the first one makes the device active."""


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
        """The device that the message is about, or the reason for its refusal."""
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
