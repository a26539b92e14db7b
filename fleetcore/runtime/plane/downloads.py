"""Downloads of artifacts: how many devices download at once, and how many bytes a second go to all of them.

A device has a slot while it reads, and for some seconds longer, in which it asks for the next part or connects again.
The slot is a lease, so that a device that falls silent holds none.
"""

import random
from collections.abc import AsyncGenerator, AsyncIterator, Sized
from typing import TypeVar

from fleetcore.errors import Unavailable
from fleetcore.interfaces.clock import Clock

S = TypeVar("S", bound=Sized)

#: How long a slot lasts after the last byte.
LEASE_S = 30.0
#: A device without a slot asks again after so long, in the mean; each at another time.
_AGAIN_S = 20.0


class Downloads:
    """Gives slots, and paces the bytes.

    Args:
        at_once: the most devices that download at once; None for any number.
        bytes_per_s: the most bytes a second for all devices together; None for any number.
    """

    def __init__(self, clock: Clock, *, at_once: int | None = None, bytes_per_s: int | None = None) -> None:
        self._clock, self._at_once, self._bytes_per_s = clock, at_once, bytes_per_s
        #: Device → the monotonic time at which its slot is free again; in that order.
        self._leases: dict[str, float] = {}
        #: When the bytes that were sent so far would have been sent at the allowed speed.
        self._sent_until = 0.0

    @property
    def is_limited(self) -> bool:
        """Whether slots or bytes are limited."""
        return self._at_once is not None or self._bytes_per_s is not None

    def take(self, device: str) -> None:
        """Gives a device a slot, or renews the one that it has.

        Raises:
            Unavailable: ``overloaded``, all slots are taken; ``retry_after_s`` differs from device to device.
        """
        if self._at_once is None:
            return
        now = self._clock.monotonic_s()
        for other in [other for other, until in self._leases.items() if until <= now]:
            del self._leases[other]
        if device not in self._leases and len(self._leases) >= self._at_once:
            raise Unavailable(
                f"{self._at_once} devices download already",
                remedy="Ask again later",
                retry_after_s=_AGAIN_S * random.uniform(0.5, 1.5),  # noqa: S311  # it has to differ, not to be secret
                limit=self._at_once,
                unit="downloads",
                scope="fleet",
            )
        self._renew(device, now)

    def free(self, device: str) -> None:
        """A device has all of its artifact."""
        self._leases.pop(device, None)

    async def paced(self, device: str, pieces: AsyncIterator[S], *, last: bool) -> AsyncIterator[S]:
        """The pieces at the allowed speed; while they flow the device has its slot.

        Args:
            last: whether the artifact ends with them; then the slot is free.
        """
        try:
            async for piece in pieces:
                await self._wait(len(piece))
                if device in self._leases:
                    self._renew(device, self._clock.monotonic_s())
                yield piece
        finally:
            if isinstance(pieces, AsyncGenerator):
                await pieces.aclose()
        if last:
            self.free(device)

    def _renew(self, device: str, now: float) -> None:
        self._leases.pop(device, None)
        self._leases[device] = now + LEASE_S

    async def _wait(self, count: int) -> None:
        if self._bytes_per_s is None:
            return
        now = self._clock.monotonic_s()
        begins = max(self._sent_until, now)
        self._sent_until = begins + count / self._bytes_per_s
        if begins > now:
            await self._clock.sleep(begins - now)
