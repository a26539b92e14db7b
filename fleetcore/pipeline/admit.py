"""Admit: whether a message may come in at all, by session, lifecycle, rate, length and subject."""

from abc import ABC, abstractmethod

from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.provider import Limits
from fleetcore.model.message import Rejected
from fleetcore.pipeline.receive import Delivery
from fleetcore.pipeline.session import OWNER, DeviceSession, DeviceState

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
        self._directory, self._clock = directory, clock
        self._rate_per_s, self._burst = limits.rate_per_s, limits.burst
        self._too_long = Rejected(
            code="limit_exceeded",
            reason="The message is too long",
            limit=limits.message_bytes,
            unit="bytes",
            scope="message",
        )
        self._limit_bytes = limits.message_bytes
        self._too_often = Rejected(
            code="rate_limited",
            reason=f"The device sends too often: it may send {limits.rate_per_s:g} messages a second",
            limit=int(limits.rate_per_s),
            unit="messages/s",
            scope="device",
            retry_after_s=1.0,
        )

    async def admit(self, delivery: Delivery) -> DeviceState | Rejected:
        """The device that the message is about, or why the message is not taken."""
        session, message, _, received = delivery
        identity = session.state
        if session.lost_rights:
            return Rejected(code=session.lost_rights, reason="The session has ended")
        if identity.blocked is not None:
            return silenced(identity.blocked)
        # The limit is against devices: the fleet's owner waits for nothing but the store.
        if session.protocol != OWNER and not identity.take_token(
            self._clock.monotonic_s(), self._rate_per_s, self._burst
        ):
            return self._too_often
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
