"""The server's sequence numbers: each is used once, even after a crash or a restore.

An answer needs none: it uses the nonce of its request once. The others, the challenge after a restart and every
notification after the first, take a number from here. Each second since 2026 has 1,024 numbers. Those of future seconds
are saved as used before the first of them is, so a killed process only leaves gaps. Reservations begin at the present
or later: so a store restored from a backup begins after all numbers used since. Numbers run ahead of the clock by a
second for each start, and by up to 16 in a burst of notifications; a restore has to take longer than that.

All contexts share the numbers, which costs nothing and needs no state per context.
"""

from collections import deque
from collections.abc import Callable

from fleetcore.errors import FleetError, Unavailable
from fleetcore.interfaces.provider import Context

#: 2026-01-01T00:00:00Z, in ms since 1970.
EPOCH_MS = 1_767_225_600_000
#: A Partial IV has 40 bits (RFC 8613 §7.2.1): 30 for the second, which last 34 years, and 10 within it.
NUMBERS = 1 << 10
_SECONDS = 1 << 30
_NAME = "oscore-reserved"
#: Seconds that may be reserved beyond one per second, for bursts.
_AHEAD = 16


class Numbers:
    """The numbers of one listener; :meth:`keep` must be called about twice a second."""

    def __init__(self, context: Context) -> None:
        self._context = context
        #: Reserved and unused ranges: from, to.
        self._free: deque[tuple[int, int]] = deque()
        self._used = 0
        self._since_s = context.clock.monotonic_s()
        self._reserved = 0
        self._waiting: deque[Callable[[], None]] = deque()

    @property
    def at_hand(self) -> bool:
        """Whether a number is available now."""
        return bool(self._free)

    async def open(self) -> None:
        """Reserves the first numbers; raises the store's errors, and Unavailable if the clock is past their end."""
        await self._reserve(1)

    def when_there_is_one(self, use: Callable[[], None]) -> None:
        """Calls ``use``, which may take one number: now, or once one is available."""
        if self._free and not self._waiting:
            use()
        else:
            self._waiting.append(use)

    def take(self) -> int:
        """A number that was never used; only call it if one is available."""
        number, end = self._free.popleft()
        if number + 1 < end:
            self._free.appendleft((number + 1, end))
        self._used += 1
        return number

    async def keep(self) -> None:
        """Keeps as many available as are used in a second, and serves what waits."""
        wanted = len(self._waiting) + max(NUMBERS // 2, 2 * self._used) - sum(end - at for at, end in self._free)
        self._used = 0
        passed_s = self._context.clock.monotonic_s() - self._since_s
        seconds = min(-(-wanted // NUMBERS), int(_AHEAD + passed_s) - self._reserved)
        if seconds > 0:
            try:
                await self._reserve(seconds)
            except FleetError as error:  # retried at the next call; the reserved ones last until then
                self._context.logger.warning("Sequence numbers cannot be reserved: %s", error)
        while self._waiting and self._free:
            self._waiting.popleft()()

    async def _reserve(self, seconds: int) -> None:
        state = self._context.state
        kept = int.from_bytes(state.get(_NAME, b""), "big")
        begin = max(kept, (self._context.clock.now_ms() - EPOCH_MS) // 1000)
        end = begin + seconds
        if end > _SECONDS:
            raise Unavailable("The clock is past 2059, where the sequence numbers of OSCORE end", code="not_ready")
        state[_NAME] = end.to_bytes(4, "big")
        await state.save()
        self._reserved += seconds
        self._free.append((begin * NUMBERS, end * NUMBERS))
