"""Clock: the source of time. The real clock is in runtime; the one that tests move is in testing."""

from abc import ABC, abstractmethod


class Clock(ABC):
    """Tells the time and waits for it."""

    @abstractmethod
    def now_ms(self) -> int:
        """Wall-clock time, integer milliseconds since the epoch; may jump either way."""

    @property
    def is_known(self) -> bool:
        """Whether ``now_ms`` is the time; False where it is an estimate, which is not after the true time.

        A machine without a battery-backed clock does not know the time after its start. By default True.
        """
        return True

    def known_ms(self) -> int | None:
        """:meth:`now_ms`, or None where the time is not known."""
        return self.now_ms() if self.is_known else None

    @abstractmethod
    def monotonic_s(self) -> float:
        """Seconds since some fixed moment; never goes back. For intervals and time-outs."""

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Returns once ``monotonic_s`` has advanced by ``seconds``; may be cancelled."""
